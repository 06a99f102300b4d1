"""The parts of the clairvoyant bound against every possibility, where these can be counted."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vllm_service.simulation.worlds import scenario, trace
from vllm_service.simulation.compare import CLAIRVOYANT, compare
from vllm_service.simulation.lives import Slotted, best_lives
from vllm_service.simulation.slots import Slots

JOBS = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 5), st.integers(1, 3)), min_size=1, max_size=8).map(sorted)
GAINS = st.lists(st.floats(0.0, 3.0), min_size=1, max_size=4)


def most_units(jobs: list[tuple[int, int, int]], workers: int) -> int:
    """Units of work that fit into whole seconds of so many workers: a largest matching, by augmenting paths."""
    units = [(arrival, arrival + patience) for arrival, patience, work in jobs for _ in range(work)]
    taken: dict[tuple[int, int], int] = {}

    def place(unit: int, seen: set[tuple[int, int]]) -> bool:
        for second in range(*units[unit]):
            for worker in range(workers):
                seat = (second, worker)
                if seat not in seen:
                    seen.add(seat)
                    if seat not in taken or place(taken[seat], seen):
                        taken[seat] = unit
                        return True
        return False

    return sum(place(unit, set()) for unit in range(len(units)))


@settings(max_examples=200, deadline=None)
@given(JOBS)
def test_a_slots_capacity_is_the_most_work_that_fits_between_arrivals_and_deadlines(
    jobs: list[tuple[int, int, int]],
) -> None:
    arrival, patience, work = (np.array(column, float) for column in zip(*jobs, strict=True))
    slots = Slots.cut(arrival, 100.0, 100.0)
    able = slots.capacities(arrival, arrival + patience, work, 3)
    assert able[0].tolist() == pytest.approx([most_units(jobs, workers) for workers in range(4)])


def test_slots_end_at_silences_and_when_they_are_long() -> None:
    slots = Slots.cut(np.array([0.0, 1.0, 2.0, 9.0, 12.0, 15.0, 18.0]), 4.0, 5.0)
    assert (slots.first.tolist(), slots.number.tolist()) == ([0, 3, 5], [0, 0, 0, 1, 1, 2, 2])


def all_lives(slots: int, after: int = -1) -> Iterator[list[tuple[int, int]]]:
    """Every way to live after this slot: when it comes and goes. It may come back in the slot in which it went."""
    yield []
    for comes in range(max(0, after), slots):
        for goes in range(comes + (comes == after), slots):
            for rest in all_lives(slots, goes):
                yield [(comes, goes), *rest]


def worth(lives: list[tuple[int, int]], slots: Slotted, start_usd: float) -> float:
    """Dollars by the rules of Slotted and best_lives. Who comes back in the slot in which it went gains there once."""
    usd = 0.0
    for number, (comes, goes) in enumerate(lives):
        back = number + 1 < len(lives) and lives[number + 1][0] == goes
        usd -= start_usd
        for slot in range(comes, goes + 1):
            if slot > comes:
                reached = slots.reach[slot - 1] if slot - 1 == comes else slots.begins[slot - 1]
                usd -= max(0.0, slots.begins[slot] - reached)
            if slot == goes:
                usd += 0.0 if back else slots.last[slot, 0]
            else:
                usd += slots.first[slot, 0] if slot == comes else slots.whole[slot, 0]
    return usd


@settings(max_examples=150, deadline=None)
@given(GAINS, st.lists(st.floats(0.5, 4.0), min_size=4, max_size=4), st.floats(0.0, 2.0), st.floats(0.0, 2.0))
def test_no_way_to_live_saves_more_than_the_best(
    gains: list[float], gaps: list[float], reach: float, start_usd: float
) -> None:
    whole = np.array(gains)[:, None]
    begins = np.cumsum(gaps[: len(gains)])
    slots = Slotted(begins, begins + reach, whole, 0.5 * whole, 0.75 * whole)
    best = max(worth(lives, slots, start_usd) for lives in all_lives(len(gains)))
    assert best_lives(slots, 1.0, start_usd).saved_usd == pytest.approx(best, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(
    bursts=st.lists(st.tuples(st.floats(0, 600), st.integers(1, 40), st.integers(10, 20_000)), min_size=1, max_size=6),
    price=st.sampled_from([1e-5, 1e-4, 1e-3]),
    seed=st.integers(0, 99),
)
def test_the_bound_is_under_every_policy_when_requests_come_at_once(
    bursts: list[tuple[float, int, int]], price: float, seed: int
) -> None:
    rows = sorted((at, prompt, 50) for at, count, prompt in bursts for _ in range(count))
    results = {result.policy: result for result in compare(trace(rows), scenario(usd_per_second=price), seed)}
    for result in results.values():
        if result.within_target_pct >= 99.0:
            assert results[CLAIRVOYANT].usd <= result.usd * (1 + 1e-9)
