"""A lower bound on what any policy can pay that keeps the floor, knowing the whole future.

What is relaxed, so that it is a bound (docs/routing.md has the argument):

* 1 % of the requests, those that are dearest when hosted, cost nothing: they may be late.
* A hosted request costs its cheapest provider that does not refuse it. An own one takes only worker-seconds: reading
  (prompt / prefill speed), or `prefill_share` of that plus tokens / the full batch's speed, whichever sum is larger
  over the trace; any fraction of a request may be own.
* Time is cut into slots. The requests of a slot may use k workers for the slot and its longest deadline, all of it.
  What the k-th worker saves in a slot is then a fractional knapsack, and falls with k, so each worker is decided alone.
* A worker's life costs its cold start and idle time-out (a mean that no number of starts can beat) and its slots, of
  which the first and last may be fractions and are free. It is warm as early as it likes.

Any slot length gives a valid bound, and so does either kind of work; the best of several is reported.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vllm_service.simulation.draws import Draws
from vllm_service.simulation.dual import Dual
from vllm_service.simulation.scenario import Scenario
from vllm_service.simulation.trace import Trace

Floats = NDArray[np.float64]

FREE_SHARE = 0.01
_SLOT_SECONDS = (10.0, 30.0, 120.0, 600.0)
_MOST_SLOTS = 400_000
_FINEST_SECONDS, _PRICED_SLOTS = 2.0, 4000


@dataclass(frozen=True)
class Bound:
    """Dollars that nobody can beat, and what the workers of that relaxed schedule would do."""

    usd: float
    worker_seconds: float
    starts: int


@dataclass(frozen=True)
class _Demand:
    arrival: Floats
    hosted_usd: Floats
    reading: Floats  # worker-seconds
    mixed: Floats
    first_deadline: Floats
    last_deadline: Floats


def clairvoyant(trace: Trace, scenario: Scenario, draws: Draws) -> Bound:
    """The best of the bounds; never more than everything hosted costs."""
    hosted = _cheapest_hosted_usd(trace, scenario, draws)
    best = Bound(0.0, 0.0, 0)
    everything = _demand(trace, scenario, hosted)
    demand = _without_the_free(everything)
    for slot_seconds in _SLOT_SECONDS:
        if trace.arrival_seconds[-1] / slot_seconds > _MOST_SLOTS:
            continue
        for work, deadline in ((demand.reading, demand.first_deadline), (demand.mixed, demand.last_deadline)):
            bound = _bound(demand, work, deadline, slot_seconds=slot_seconds, scenario=scenario, draws=draws)
            best = max(best, bound, key=lambda bound: bound.usd)
    for share in (0.0, 0.5, 1.0):
        best = max(best, _dual_bound(everything, scenario, draws, share), key=lambda bound: bound.usd)
    if best.usd < hosted.sum():
        return best
    return Bound(float(hosted.sum()), 0.0, 0)


def _cheapest_hosted_usd(trace: Trace, scenario: Scenario, draws: Draws) -> Floats:
    """Per request, of the providers that do not refuse it, else of all."""
    usd = np.stack(
        [place.usd(1, 0) * trace.prompt_tokens + place.usd(0, 1) * trace.completion_tokens for place in scenario.hosted]
    )
    open_usd = np.where(draws.rejected.T, np.inf, usd).min(axis=0)
    cheapest: Floats = np.where(np.isfinite(open_usd), open_usd, usd.min(axis=0))
    return cheapest


def _demand(trace: Trace, scenario: Scenario, hosted_usd: Floats) -> _Demand:
    profile, target = scenario.own.profile, scenario.target
    reading = trace.prompt_tokens / profile.prefill_tokens_per_second
    answering = (trace.completion_tokens - 1.0) / profile.decode_tokens_per_second
    first = target.ttft_seconds + trace.prompt_tokens / target.prompt_tokens_per_second
    last = first + target.seconds_per_output_token * trace.completion_tokens
    return _Demand(trace.arrival_seconds, hosted_usd, reading, profile.prefill_share * reading + answering, first, last)


def _without_the_free(demand: _Demand) -> _Demand:
    """Less the dearest 1 %: they may be late, and then cost as good as nothing."""
    free = int(np.ceil(FREE_SHARE * len(demand.arrival)))
    kept = np.sort(np.argsort(demand.hosted_usd, kind="stable")[: len(demand.arrival) - free])
    return _Demand(*(getattr(demand, name)[kept] for name in demand.__dataclass_fields__))


def _bound(
    demand: _Demand, work: Floats, deadline: Floats, *, slot_seconds: float, scenario: Scenario, draws: Draws
) -> Bound:
    workers = scenario.own.profile.max_workers
    slots, gains = _gains(demand, work, deadline, slot_seconds, workers)
    second = scenario.own.usd_per_second
    start_seconds = _least_start_seconds(draws) + scenario.own.profile.idle_timeout_seconds
    # Beyond its slots a life may reach into the deadline of the first one's requests.
    reach = float(demand.first_deadline.max(initial=0.0))
    start = second * max(0.0, start_seconds - reach)
    saved, on_slots, starts = _lives(slots, gains, second * slot_seconds, start)
    usd = float(demand.hosted_usd.sum()) - saved
    return Bound(usd, on_slots * slot_seconds + starts * start_seconds, starts)


def _dual_bound(demand: _Demand, scenario: Scenario, draws: Draws, share: float) -> Bound:
    """By prices (dual.py). share: of the kind of work that is reading only; all of it ends with the first token."""
    work = share * demand.reading + (1.0 - share) * demand.mixed
    ends = demand.arrival + (demand.first_deadline if share == 1.0 else demand.last_deadline)
    slot_seconds = max(_FINEST_SECONDS, float(demand.arrival[-1]) / _PRICED_SLOTS)
    dual = Dual(
        demand.hosted_usd,
        work,
        demand.arrival,
        ends,
        slot_seconds=slot_seconds,
        usd_per_second=scenario.own.usd_per_second,
        start_seconds=_least_start_seconds(draws),
        workers=scenario.own.profile.max_workers,
        late_share=FREE_SHARE,
    )
    second = scenario.own.usd_per_second
    density = float(np.median(demand.hosted_usd / np.maximum(work, 1e-12)))
    starts = {(second, 0.0), (second, second), (max(second, 0.8 * density), second)}
    usd = max(dual.best(price, least_price) for price, least_price in starts)
    return Bound(usd, 0.0, 0)


def _least_start_seconds(draws: Draws) -> float:
    """What a start takes at least, on average, however many there are: the draws come in a fixed order."""
    means = np.cumsum(draws.cold_starts) / np.arange(1, len(draws.cold_starts) + 1)
    return float(means.min())


def _gains(
    demand: _Demand, work: Floats, deadline: Floats, slot_seconds: float, workers: int
) -> tuple[NDArray[np.int64], Floats]:
    """Slots with requests, and [slot, k] what the (k+1)-th worker saves there: a fractional knapsack per slot."""
    if not len(work):
        return np.zeros(0, np.int64), np.zeros((0, workers))
    slot = (demand.arrival // slot_seconds).astype(np.int64)
    order = np.lexsort((-demand.hosted_usd / np.maximum(work, 1e-12), slot))
    slots, first, counts = np.unique(slot[order], return_index=True, return_counts=True)
    room = slot_seconds + np.maximum.reduceat(deadline[order], first)
    work_so_far = np.concatenate(([0.0], np.cumsum(work[order])))
    usd_so_far = np.concatenate(([0.0], np.cumsum(demand.hosted_usd[order])))
    saved = np.zeros((len(slots), workers + 1))
    for count in range(1, workers + 1):
        reach = np.minimum(work_so_far[first] + count * room, work_so_far[first + counts])
        saved[:, count] = np.interp(reach, work_so_far, usd_so_far) - usd_so_far[first]
    return slots, np.diff(saved, axis=1)


def _lives(slots: NDArray[np.int64], gains: Floats, slot_usd: float, start_usd: float) -> tuple[float, float, int]:
    """The most that each worker can save by when it lives: off, in its first slot, in its second or later.

    Its first and its last slot are free, so the second costs nothing and each later one a slot. Silence between two
    slots with requests costs what it lasts, or a new start. Returns dollars, worker-slots and starts of all workers.
    """
    workers = gains.shape[1]
    off = np.zeros(workers)
    fresh = np.full(workers, -np.inf)
    later = np.full(workers, -np.inf)
    # Beside the money: slots and starts of the same best schedule, for the report.
    books = np.zeros((3, 2, workers))
    previous = -1
    for slot, gain in zip(slots.tolist(), gains, strict=True):
        silence = slot - previous - 1
        previous = slot
        stay = later - slot_usd * (1 + silence)
        second = fresh - slot_usd * silence
        from_second = second > stay
        begin = off - start_usd
        books[2] = np.where(from_second, books[1], books[2]) + np.array([[1.0 + silence], [0.0]])
        books[1] = books[0] + np.array([[1.0], [1.0]])
        later = np.where(from_second, second, stay) + gain
        fresh = begin + gain
        for number, value in ((1, fresh), (2, later)):
            better = value > off
            books[0] = np.where(better, books[number], books[0])
            off = np.where(better, value, off)
    return float(off.sum()), float(books[0, 0].sum()), int(books[0, 1].sum())
