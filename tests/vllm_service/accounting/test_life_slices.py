"""Lives booked slice by slice: exact, the same as at once, and what others used is nobody's."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_service.accounting.booking import RanRequest, WorkerBill, book
from vllm_service.accounting.inferred_lives import inferred_lives
from vllm_service.accounting.life_slices import BookedSlice, next_slice
from vllm_service.accounting.lives import EndpointLives, LivesSettings
from vllm_service.domain.bill import DAY_US
from vllm_service.domain.cost_basis import CostParts
from vllm_service.domain.worker_lives import (
    EndpointSight,
    Keeper,
    KnownBy,
    LedgerRow,
    Phase,
    WorkerCounts,
    WorkerLife,
    WorkerSight,
)

S = 1_000_000
T = 20_780 * DAY_US
PRICE = 310
NEVER = T + 10**15


def us(seconds: float) -> int:
    return T + round(seconds * S)


def life(started: float, ready: float | None, stopped: float | None, seen: float = 0.0) -> WorkerLife:
    return WorkerLife(
        life_id="l",
        provider="own",
        endpoint_id="ep",
        worker_id="w",
        started_at_us=us(started),
        known_by=KnownBy.WORKERS,
        ready_at_us=None if ready is None else us(ready),
        stopped_at_us=None if stopped is None else us(stopped),
        last_seen_us=us(seen if stopped is None else stopped),
        picousd_per_microsecond=PRICE,
        booked_until_us=us(started),
    )


def row(row_id: int, started: float, ended: float) -> LedgerRow:
    return LedgerRow(row_id, us(started), us(ended))


def booked(one: WorkerLife, rows: list[LedgerRow], finals: list[int]) -> list[BookedSlice]:
    """All slices, as the moments up to each of `finals` become final."""
    slices: list[BookedSlice] = []
    for final_us in finals:
        while (found := next_slice(one, [row for row in rows if row.started_us < final_us], final_us)) is not None:
            slices.append(found)
            one = found.life
            if one.is_settled:
                return slices
    return slices


def seconds_of(slices: list[BookedSlice]) -> dict[int, tuple[float, float, float]]:
    """Seconds of execution, cold start and idling that each row pays for."""
    sums: dict[int, CostParts] = {}
    for part in slices:
        for row_id, parts in part.parts.items():
            old = sums.get(row_id, CostParts())
            sums[row_id] = CostParts(
                old.execution_picousd + parts.execution_picousd,
                old.cold_start_picousd + parts.cold_start_picousd,
                old.idle_picousd + parts.idle_picousd,
            )
    unit = PRICE * S
    return {
        row_id: (parts.execution_picousd / unit, parts.cold_start_picousd / unit, parts.idle_picousd / unit)
        for row_id, parts in sums.items()
    }


def nobodys(slices: list[BookedSlice]) -> float:
    return sum(part.nobody_picousd for part in slices) / (PRICE * S)


def test_a_lone_request_pays_for_its_cold_start_its_run_and_the_idle_tail() -> None:
    slices = booked(life(10, 40, 50), [row(1, 10, 45)], [us(20), us(42), us(48), NEVER])
    assert seconds_of(slices) == {1: (5, 30, 5)}
    assert slices[-1].life.booked_picousd == 40 * S * PRICE
    assert [part.length_us // S for part in slices] == [10, 22, 6, 2]


def test_nothing_is_booked_that_is_not_final_not_seen_or_without_a_price() -> None:
    assert next_slice(life(10, 40, 50), [row(1, 10, 45)], us(10)) is None
    assert next_slice(life(10, 40, None, seen=10), [row(1, 10, 45)], us(30)) is None
    assert next_slice(replace(life(10, 40, 50), picousd_per_microsecond=None), [row(1, 10, 45)], NEVER) is None


def test_who_pays_for_a_cold_start_is_waited_for() -> None:
    woken = life(0, 20, None, seen=100)
    assert next_slice(woken, [], us(100)) is None
    slices = booked(woken, [row(7, 60, 70)], [us(100)])
    assert seconds_of(slices) == {7: (10, 20, 40 + 30)}


def test_a_worker_that_no_request_needed_is_a_line_of_its_own() -> None:
    slices = booked(life(0, 20, 80), [row(1, 90, 95)], [NEVER])
    assert (seconds_of(slices), nobodys(slices)) == ({}, 80)
    always_on = life(0, 20, None, seen=2000)
    slices = booked(always_on, [row(1, 1000, 1010)], [us(2000)])
    assert seconds_of(slices) == {1: (10, 0, 990)}
    assert nobodys(slices) == 1000
    assert nobodys(booked(always_on, [], [us(2000)])) == 2000


def test_what_another_application_used_is_nobodys() -> None:
    shared = replace(life(0, 10, 100), running_spans=((us(12), us(22)), (us(40), us(60))))
    slices = booked(shared, [row(1, 0, 20.5)], [us(30), us(45), NEVER])
    assert seconds_of(slices) == {1: (10.5, 10, 0)}
    assert nobodys(slices) == 79.5
    theirs = replace(life(0, 10, 100), running_spans=((us(12), us(60)),))
    slices = booked(theirs, [row(1, 70, 80)], [NEVER])
    assert seconds_of(slices) == {1: (10, 0, 20)}


def test_the_rounding_up_to_a_second_comes_with_the_last_slice() -> None:
    slices = booked(life(0, 1, 10.25), [row(1, 0, 10)], [us(5), us(10.25)])
    assert slices[-1].life.booked_picousd == 11 * S * PRICE
    assert slices[-1].life.is_settled


def test_a_life_that_goes_on_after_its_end_is_rounded_up_once() -> None:
    rows = [row(1, 0, 10)]
    (ended,) = booked(life(0, 1, 10.25), rows, [NEVER])
    again = replace(ended.life, stopped_at_us=us(10.5), is_settled=False)
    (more,) = booked(again, rows, [NEVER])
    assert more.life.booked_picousd == ended.life.booked_picousd == 11 * S * PRICE


@pytest.mark.parametrize("factor", [3, 0.5, 1.01], ids=["dearer", "cheaper", "a little dearer"])
def test_a_price_that_changes_counts_from_then_on_and_never_for_seconds_that_others_have_paid(factor: float) -> None:
    price = round(PRICE * factor)
    first, _ = rows = [row(1, 0, 500), row(2, 600, 700)]
    (before,) = booked(life(0, 20, None, seen=550), [first], [us(550)])
    assert before.life.booked_picousd == 550 * S * PRICE
    repriced = replace(before.life, picousd_per_microsecond=price, last_seen_us=us(700), stopped_at_us=us(700))
    (after,) = booked(repriced, rows, [NEVER])
    paid = {row_id: (parts.execution_picousd, parts.idle_picousd) for row_id, parts in after.parts.items()}
    assert paid == {1: (0, 50 * S * price), 2: (100 * S * price, 0)}
    assert after.life.booked_picousd == 550 * S * PRICE + 150 * S * price


def test_slices_end_at_midnight_and_say_who_began_on_the_day_before() -> None:
    midnight = 86_400
    slices = booked(
        life(midnight - 100, midnight - 90, midnight + 50), [row(1, midnight - 100, midnight - 20)], [NEVER]
    )
    first, second = slices
    assert (first.day + 1, first.length_us) == (second.day, 100 * S)
    assert (first.earlier_picousd, second.earlier_picousd) == (0, 50 * S * PRICE)
    assert second.parts == {1: CostParts(idle_picousd=50 * S * PRICE)}


def test_a_request_pays_for_a_week_of_idle_seconds_and_then_nobody_does() -> None:
    midnight, day = 86_400, 86_400
    slices = booked(life(midnight - 100, midnight - 90, None, seen=10 * day), [row(1, midnight - 90, 86_390)], [NEVER])
    assert seconds_of(slices) == {1: (80, 10, 10 + 7 * day)}
    assert (nobodys(slices), slices[-1].earlier_picousd) == (2 * day, 0)


def test_those_who_pay_are_bounded_and_are_carried() -> None:
    waiting = [row(number, -1, 30) for number in range(5000)]
    slices = booked(life(0, 40, None, seen=40), waiting, [us(40)])
    assert len(slices[-1].life.keepers or ()) == 1000
    assert slices[-1].life.keepers is not None
    assert slices[-1].life.keepers[0] == Keeper(0, us(-1))


TIMES = st.integers(0, 600)


@st.composite
def spans(draw: st.DrawFn) -> tuple[int, int]:
    start = draw(TIMES)
    return start, start + draw(st.integers(1, 120))


@given(TIMES, TIMES, TIMES, st.lists(spans(), max_size=12), st.lists(TIMES, max_size=10))
def test_slices_add_up_to_what_is_booked_at_once(
    start: int, cold: int, alive: int, ran: list[tuple[int, int]], finals: list[int]
) -> None:
    rows = [row(100 + number, *span) for number, span in enumerate(sorted(ran))]
    stop = start + cold + alive
    one = life(start, start + cold, stop)
    slices = booked(one, rows, [*(us(final) for final in sorted(finals)), NEVER])
    cost = (stop - start) * S * PRICE
    assert sum(part.nobody_picousd + sum(p.total_picousd for p in part.parts.values()) for part in slices) == cost
    assert slices[-1].life.is_settled
    bill = WorkerBill("w", "own", one.started_at_us, one.stopped_at_us or 0, cost, one.ready_at_us)
    requests = [RanRequest(str(at.row_id), "own", at.started_us, at.ended_us) for at in rows]
    whole = {booking.request_id: booking.total_picousd for booking in book([bill], requests)}
    by_row: Counter[str | None] = Counter()
    for part in slices:
        by_row[None] += part.nobody_picousd
        by_row.update({str(row_id): parts.total_picousd for row_id, parts in part.parts.items()})
    if all(at.started_us <= us(start + cold + 600) for at in rows):
        for name in {*whole, *by_row}:
            # A slice rounds once, at most by a pico-dollar for each request.
            assert whole.get(name, 0) == pytest.approx(by_row[name], abs=len(slices) * (len(rows) + 1))


def test_an_answer_without_any_worker_implies_one() -> None:
    rows = [row(1, 0, 10), row(2, 12, 14), row(3, 100, 101), LedgerRow(4, us(200), us(201), is_answered=False)]
    known = [life(95, 99, 110)]
    found = inferred_lives(
        rows, known, provider="own", endpoint_id="ep", idle_timeout_us=5 * S, picousd_per_microsecond=PRICE
    )
    assert [(one.started_at_us, one.ready_at_us, one.stopped_at_us) for one in found] == [(us(0), us(0), us(19))]
    slices = booked(found[0], rows, [NEVER])
    assert seconds_of(slices) == {1: (10, 0, 2), 2: (2, 0, 5)}


IDLE = 5.0


def true_lives(chance: random.Random, rows: list[LedgerRow]) -> list[tuple[float, float, float]]:
    """(start, ready, stop): one worker at a time, woken by a request and stopped when its idle timeout is over."""
    found: list[tuple[float, float, float]] = []
    for one in rows:
        begin, end = ((at - T) / S for at in (one.started_us, one.ended_us))
        if found and begin < found[-1][2]:
            found[-1] = (*found[-1][:2], max(found[-1][2], end + IDLE))
        else:
            started = begin + chance.uniform(0.05, 0.3)
            ready = min(started + chance.uniform(1, 40), end)
            found.append((started, ready, end + IDLE))
    return found


@given(st.randoms(use_true_random=False), st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_what_is_booked_from_looks_is_near_the_bill_of_the_true_workers(
    chance: random.Random, is_listed: bool, has_gap: bool
) -> None:
    at = 0.0
    rows = []
    for number in range(chance.randint(1, 40)):
        at += chance.choice((0.5, 3.0, 30.0, 200.0)) * chance.random()
        rows.append(row(number, at, at + chance.uniform(1.0, 60.0)))
    lives = true_lives(chance, rows)
    gap = (at / 3, at / 3 + 120) if has_gap and is_listed else (-1.0, -1.0)
    followed = EndpointLives("own", "ep", lambda *_: PRICE, LivesSettings(idle_timeout_us=round(IDLE * S)))
    known: dict[str, WorkerLife] = {}
    looked = -3.0
    while looked < max(lives[-1][2], gap[1]) + 10:
        looked += chance.uniform(1.8, 2.4)
        if gap[0] <= looked < gap[1]:
            continue
        up = [(number, one) for number, one in enumerate(lives) if one[0] <= looked < one[2]]
        if is_listed:
            workers = tuple(
                WorkerSight(f"w{number}", Phase.WARM if looked >= one[1] else Phase.STARTING, False, us(one[0]))
                for number, one in up
            )
            sight = EndpointSight(us(looked), workers)
        else:
            warm = sum(looked >= one[1] for _, one in up)
            sight = EndpointSight(us(looked), counts=WorkerCounts(len(up) - warm, warm))
        known |= {one.life_id: one for one in followed.observe(sight)}
    known |= {
        one.life_id: one
        for one in inferred_lives(
            rows,
            list(known.values()),
            provider="own",
            endpoint_id="ep",
            idle_timeout_us=round(IDLE * S),
            picousd_per_microsecond=PRICE,
        )
    }
    slices = [part for one in known.values() for part in booked(one, rows, [us(at / 2), NEVER])]
    total = sum(part.nobody_picousd + sum(p.total_picousd for p in part.parts.values()) for part in slices)
    billed = sum(PRICE * S * -(-round((stop - start) * S) // S) for start, _, stop in lives)
    bound = sum(one.uncertain_us + S for one in known.values()) * PRICE
    assert abs(total - billed) <= bound + PRICE * S * len(lives)
    assert total == sum(one.life.booked_picousd for one in slices if one.life.is_settled)
