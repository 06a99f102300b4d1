"""What workers cost by what was seen of them, for as long as there is no bill: counts over time become intervals.

An estimate: a worker that came and went between two looks was never seen, and one that is seen late is billed from when
it was seen. Which of several workers left cannot be told from counts: the one that was ready first is taken.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from vllm_service.domain.accounting import WorkerBill
from vllm_service.domain.pricing import SecondPrice

_SECOND_US = 1_000_000


@dataclass(frozen=True, slots=True)
class WorkerCounts:
    """How many workers of an endpoint load and how many are ready, at a time in microseconds; None is unknown."""

    at_us: int
    loading: int | None
    ready: int | None


@dataclass(slots=True)
class _Seen:
    number: int
    started_us: int
    ready_us: int | None = None


def observed_workers(
    endpoint: str, looks: Iterable[WorkerCounts], price: SecondPrice, until_us: int
) -> list[WorkerBill]:
    """Those that have stopped, then those still there, as if they stopped at `until_us`. Looks in the order of time."""
    numbers = itertools.count(1)
    loading: deque[_Seen] = deque()
    ready: deque[_Seen] = deque()
    bills: list[WorkerBill] = []

    def stop(seen: _Seen, at_us: int) -> None:
        bills.append(_bill(endpoint, seen, max(at_us, seen.started_us), price))

    for look in looks:
        if look.loading is None or look.ready is None:
            continue
        while len(ready) > look.ready:
            stop(ready.popleft(), look.at_us)
        while len(ready) < look.ready:
            seen = loading.popleft() if loading else _Seen(next(numbers), look.at_us)
            seen.ready_us = look.at_us
            ready.append(seen)
        while len(loading) > look.loading:
            stop(loading.popleft(), look.at_us)
        while len(loading) < look.loading:
            loading.append(_Seen(next(numbers), look.at_us))
    for seen in (*ready, *loading):
        stop(seen, until_us)
    return bills


def _bill(endpoint: str, seen: _Seen, stopped_us: int, price: SecondPrice) -> WorkerBill:
    """Rounded up to a second, as RunPod does (FACTS.md, 2026-11)."""
    seconds = -(-(stopped_us - seen.started_us) // _SECOND_US)
    cost = price.cost_picousd(seconds * _SECOND_US)
    return WorkerBill(f"observed-{seen.number}", endpoint, seen.started_us, stopped_us, cost, seen.ready_us)
