"""Counts of workers over time become intervals that can be booked before the bill comes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vllm_service.domain.accounting import WorkerBill
from vllm_service.domain.observed_workers import WorkerCounts, observed_workers
from vllm_service.domain.pricing import SecondPrice

PRICE = SecondPrice.per_second("0.001")
SECOND = 1_000_000


def seen(
    *looks: tuple[float, int | None, int | None], until: float = 100
) -> list[tuple[float, float | None, float, int]]:
    """Start, ready and stop in seconds, and billed seconds, of each worker."""
    counts = [WorkerCounts(round(at * SECOND), loading, ready) for at, loading, ready in looks]
    return [told(bill) for bill in observed_workers("own", counts, PRICE, round(until * SECOND))]


def told(bill: WorkerBill) -> tuple[float, float | None, float, int]:
    ready = None if bill.ready_us is None else bill.ready_us / SECOND
    return bill.started_us / SECOND, ready, bill.stopped_us / SECOND, bill.cost_picousd // 10**9


def test_a_worker_is_seen_loading_then_ready_then_gone_and_its_seconds_are_rounded_up() -> None:
    assert seen((1, 0, 0), (2, 1, 0), (32.5, 0, 1), (40.1, 0, 0)) == [(2, 32.5, 40.1, 39)]


def test_those_still_there_are_billed_until_now() -> None:
    assert seen((0, 1, 1), until=10) == [(0, 0, 10, 10), (0, None, 10, 10)]


def test_one_leaves_while_another_becomes_ready_and_one_that_never_was_ready_is_billed_too() -> None:
    assert seen((0, 1, 1), (5, 0, 1), (9, 1, 1), (12, 0, 1), until=20) == [
        (0, None, 5, 5),
        (9, None, 12, 3),
        (0, 0, 20, 20),
    ]


def test_a_look_that_says_nothing_changes_nothing() -> None:
    assert seen((0, 0, 1), (5, None, None), (6, None, 0), (7, 0, None), until=10) == [(0, 0, 10, 10)]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=30))
def test_at_every_look_as_many_workers_are_billed_as_were_counted(counts: list[tuple[int, int]]) -> None:
    looks = [WorkerCounts(number * SECOND, loading, ready) for number, (loading, ready) in enumerate(counts)]
    bills = observed_workers("own", looks, PRICE, len(looks) * SECOND)
    for look, (loading, ready) in zip(looks, counts, strict=True):
        alive = [bill for bill in bills if bill.started_us <= look.at_us < bill.stopped_us]
        assert len(alive) == loading + ready
