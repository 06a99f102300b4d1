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
    """Those still there are billed as if they stopped at `until_us`. Looks in the order of time."""
    watch = _Watch(endpoint, price)
    for look in looks:
        if look.loading is not None and look.ready is not None:
            watch.see(look.at_us, look.loading, look.ready)
    watch.see(until_us, 0, 0)
    return watch.bills


class _Watch:
    """Who loads and who is ready, the longest first, and the bills of those who have left."""

    def __init__(self, endpoint: str, price: SecondPrice) -> None:
        self.bills: list[WorkerBill] = []
        self._endpoint, self._price = endpoint, price
        self._numbers = itertools.count(1)
        self._loading: deque[_Seen] = deque()
        self._ready: deque[_Seen] = deque()

    def see(self, at_us: int, loading: int, ready: int) -> None:
        self._stop(self._ready, len(self._ready) - ready, at_us)
        while len(self._ready) < ready:
            seen = self._loading.popleft() if self._loading else _Seen(next(self._numbers), at_us)
            seen.ready_us = at_us
            self._ready.append(seen)
        self._stop(self._loading, len(self._loading) - loading, at_us)
        while len(self._loading) < loading:
            self._loading.append(_Seen(next(self._numbers), at_us))

    def _stop(self, workers: deque[_Seen], count: int, at_us: int) -> None:
        for _ in range(count):
            seen = workers.popleft()
            self.bills.append(_bill(self._endpoint, seen, max(at_us, seen.started_us), self._price))


def _bill(endpoint: str, seen: _Seen, stopped_us: int, price: SecondPrice) -> WorkerBill:
    """Rounded up to a second, as RunPod does (FACTS.md, 2026-11)."""
    seconds = -(-(stopped_us - seen.started_us) // _SECOND_US)
    cost = price.cost_picousd(seconds * _SECOND_US)
    return WorkerBill(f"observed-{seen.number}", endpoint, seen.started_us, stopped_us, cost, seen.ready_us)
