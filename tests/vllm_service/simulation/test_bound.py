"""The parts of the clairvoyant bound against every possibility, where these can be counted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vllm_service.simulation.worlds import scenario, trace
from vllm_service.simulation.bound.clairvoyant import clairvoyant, least_with_starts, seconds_of_starts, start_prices
from vllm_service.simulation.bound.slots import Slots
from vllm_service.simulation.bound.worker_lifetimes import SlotSavings, best_lifetimes
from vllm_service.simulation.compare import CLAIRVOYANT, compare
from vllm_service.simulation.draws import Draws
from vllm_service.simulation.endpoint import Endpoint
from vllm_service.simulation.replay import Replay

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


@settings(max_examples=100, deadline=None)
@given(JOBS, st.integers(1, 3), st.integers(1, 3))
def test_a_request_in_two_pieces_counts_in_the_slot_of_its_arrival(
    jobs: list[tuple[int, int, int]], later: int, patience: int
) -> None:
    both = np.array([jobs, [(arrival + later, patience, 1) for arrival, _, _ in jobs]], float)
    arrival, deadline, work = both[:, :, 0], both[:, :, 0] + both[:, :, 1], both[:, :, 2]
    slots = Slots.cut(arrival[0], 100.0, 2.0)
    able = slots.capacities(arrival, deadline, work, 2)
    for slot, (first, end) in enumerate(zip(slots.first, slots.ends, strict=True)):
        pieces = [(int(at), int(waits), int(seconds)) for at, waits, seconds in both[:, first:end].reshape(-1, 3)]
        assert able[slot].tolist() == pytest.approx([most_units(pieces, workers) for workers in range(3)])


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


def worth(lives: list[tuple[int, int]], slots: SlotSavings, start_usd: float) -> float:
    """Returns dollars by the rules of SlotSavings and best_lifetimes.

    A worker that returns in its last slot gains once.
    """
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
    slots = SlotSavings(begins, begins + reach, whole, 0.5 * whole, 0.75 * whole)
    prices = np.array([start_usd, 0.5])
    best = [max(worth(lives, slots, price) for lives in all_lives(len(gains))) for price in prices]
    assert [lives.saved_usd for lives in best_lifetimes(slots, 1.0, prices)] == pytest.approx(best, abs=1e-9)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(0.0, 5.0), min_size=2, max_size=6),
    st.lists(st.floats(0.1, 3.0), min_size=6, max_size=6),
    st.lists(st.floats(0.0, 4.0), min_size=1, max_size=6),
)
def test_starts_cost_what_so_many_cost_together(rest: list[float], each: list[float], prices: list[float]) -> None:
    """rest: what a best schedule costs with 0, 1, ... starts, but for them."""
    numbers = np.arange(len(rest))
    starts = np.append(0.0, np.cumsum(each))[: len(rest)]
    priced = np.array([min(rest + price * numbers) for price in prices])
    least, number, price = least_with_starts(priced, np.array(prices), starts)
    assert least <= min(rest + starts) + 1e-9
    assert least == pytest.approx(priced[price] + starts[number] - prices[price] * number)


def test_starts_are_exact_where_each_further_one_saves_less() -> None:
    rest, starts = np.array([10.0, 6.0, 3.5, 3.0, 2.9]), np.array([0.0, 3.0, 4.0, 7.0, 8.0])
    prices = np.linspace(0.0, 5.0, 51)
    priced = np.array([min(rest + price * np.arange(5)) for price in prices])
    least, number, _ = least_with_starts(priced, prices, starts)
    assert (least, number) == pytest.approx((7.5, 2))


def test_a_run_of_slow_starts_costs_more_than_as_many_of_the_fastest() -> None:
    draws = Draws(replace(scenario(), own=replace(scenario().own, cold_start_sigma=0.3)), 10, 0)
    seconds = seconds_of_starts(draws, 5.0, 5000)
    assert seconds[:3].tolist() == [0.0, draws.cold_seconds(0) + 5.0, pytest.approx(sum(draws.cold_starts[:2]) + 10.0)]
    assert seconds[5000] - seconds[4999] == pytest.approx(draws.cold_seconds(4999) + 5.0)
    assert start_prices(seconds).min() == 0.0
    assert start_prices(seconds).max() > 25.0


class Waits:
    """Everything own, with one worker that starts at second 80."""

    def begin(self, replay: Replay) -> Endpoint:
        self.replay, self.own = replay, Endpoint(replay.scenario.own, replay.draws)
        self.own.set_target(0, 0.0)
        replay.at(80.0, lambda: self.own.set_target(1, 80.0))
        return self.own

    def arrived(self, request: int, now: float) -> None:
        self.replay.send_own(request)

    def first_token(self, request: int, now: float) -> None: ...

    def ended(self, request: int, now: float) -> None: ...

    def close(self, now: float) -> None:
        self.own.close(now)


def test_late_may_be_whichever_saves_most_and_not_only_the_dearest() -> None:
    """The first request waits for a worker that the 99 dearer ones after it pay for."""
    requests = trace([(0.0, 20_000.0, 1.0), *((100.0 + 0.3 * number, 21_000.0, 1.0) for number in range(99))])
    world = scenario(prefill_tokens_per_second=100_000.0)
    draws = Draws(world, len(requests), 0)
    outcome = Replay(requests, world, draws, Waits()).run()
    assert outcome.within_target_pct == 99.0
    assert outcome.hosted_usd == 0.0
    assert 0.5 * outcome.usd < clairvoyant(requests, world, draws).usd <= outcome.usd


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
