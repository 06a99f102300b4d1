"""A lower bound on what any policy can pay that keeps the floor, knowing the whole future.

What is relaxed, so that it is a bound (docs/routing.md has the argument):

* 1 % of the requests, those that are dearest when hosted, cost nothing: they may be late.
* A hosted request costs its cheapest provider that does not refuse it. An own one takes only a worker's time: reading
  (prompt / prefill speed) until its first token is due, or `prefill_share` of that plus tokens / the full batch's speed
  until its end is due; any fraction of a request may be own.
* Traffic is cut into slots (slots.py), each with workers of its own: what the k-th saves in a slot falls with k, so
  each worker is decided alone (lives.py). Its life costs its start, its idle time-out (a mean that no number of starts
  can beat) and its time; in the slots in which it comes and goes, only the time of the work that it does.

Any way to cut gives a valid bound, and so does either kind of work, and so do prices (dual.py); the best is reported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from vllm_service.routing.waking import falling
from vllm_service.simulation.draws import Draws
from vllm_service.simulation.dual import Dual
from vllm_service.simulation.lives import Lives, Slotted, best_lives
from vllm_service.simulation.scenario import OwnPhysics, Scenario
from vllm_service.simulation.slots import Slots
from vllm_service.simulation.trace import Trace

Floats = NDArray[np.float64]

FREE_SHARE = 0.01
_SILENCE_SECONDS = 4.0  # about as long as a first token may take: over a silence, little work is carried
_LONGEST_SECONDS = (5.0, 10.0, 20.0, 40.0, 80.0, 300.0)
_FINEST_SECONDS, _PRICED_SLOTS = 1.0, 4000


@dataclass(frozen=True)
class Bound:
    """Dollars that nobody can beat, and what the workers of the best schedule by slots would do."""

    usd: float
    worker_seconds: float
    starts: int


@dataclass(frozen=True)
class _Demand:
    """Per request: seconds of arrival and of both deadlines, worker-seconds of both kinds of work."""

    arrival: Floats
    hosted_usd: Floats
    reading: Floats
    mixed: Floats
    first_due: Floats
    end_due: Floats

    def only(self, requests: NDArray[np.int64]) -> Self:
        """Of these."""
        return type(self)(*(getattr(self, name)[requests] for name in self.__dataclass_fields__))


class _Work(NamedTuple):
    """One kind of it, per request: worker-seconds, and the second by which it has to be done."""

    seconds: Floats
    due: Floats


def clairvoyant(trace: Trace, scenario: Scenario, draws: Draws) -> Bound:
    """The best of the bounds; never more than everything hosted costs."""
    everything = _demand(trace, scenario, draws)
    demand = _without_the_free(everything)
    hosted_usd = float(demand.hosted_usd.sum())
    lives = min(
        (_lives(demand, longest, scenario, draws) for longest in _LONGEST_SECONDS), key=lambda each: each.saved_usd
    )
    usd = max(
        hosted_usd - lives.saved_usd, *(_dual_usd(everything, scenario, draws, share) for share in (0.0, 0.5, 1.0))
    )
    if usd < everything.hosted_usd.sum():
        start_seconds = _start_seconds(scenario, draws)
        return Bound(usd, lives.seconds + lives.starts * start_seconds, lives.starts)
    return Bound(float(everything.hosted_usd.sum()), 0.0, 0)


def _demand(trace: Trace, scenario: Scenario, draws: Draws) -> _Demand:
    profile, target = scenario.own.profile, scenario.target
    reading = trace.prompt_tokens / profile.prefill_tokens_per_second
    answering = (trace.completion_tokens - 1.0) / profile.decode_tokens_per_second
    mixed = profile.prefill_share * reading + answering
    first = target.ttft_seconds + trace.prompt_tokens / target.prompt_tokens_per_second - profile.overhead_seconds
    end = first + target.seconds_per_output_token * trace.completion_tokens
    arrival = trace.arrival_seconds
    return _Demand(arrival, _hosted_usd(trace, scenario, draws), reading, mixed, arrival + first, arrival + end)


def _hosted_usd(trace: Trace, scenario: Scenario, draws: Draws) -> Floats:
    """Per request, of the cheapest provider that does not refuse it, else of the cheapest."""
    usd = np.stack(
        [place.usd(1, 0) * trace.prompt_tokens + place.usd(0, 1) * trace.completion_tokens for place in scenario.hosted]
    )
    open_usd = np.where(draws.rejected.T, np.inf, usd).min(axis=0)
    cheapest: Floats = np.where(np.isfinite(open_usd), open_usd, usd.min(axis=0))
    return cheapest


def _without_the_free(demand: _Demand) -> _Demand:
    """Less the dearest 1 %: they may be late, and then cost as good as nothing."""
    free = int(np.ceil(FREE_SHARE * len(demand.arrival)))
    kept = np.argsort(demand.hosted_usd, kind="stable")[: len(demand.arrival) - free]
    return demand.only(np.sort(kept))


def _lives(demand: _Demand, longest_seconds: float, scenario: Scenario, draws: Draws) -> Lives:
    """The better of both kinds of work, cut into slots of this length."""
    if not len(demand.arrival):
        return Lives(0.0, 0.0, 0)
    second = scenario.own.usd_per_second
    slots = Slots.cut(demand.arrival, _SILENCE_SECONDS, longest_seconds)
    kinds = (_Work(demand.reading, demand.first_due), _Work(demand.mixed, demand.end_due))
    each = [_slotted(demand, slots, work, scenario.own) for work in kinds]
    start_usd = second * _start_seconds(scenario, draws)
    return min((best_lives(slotted, second, start_usd) for slotted in each), key=lambda lives: lives.saved_usd)


def _slotted(demand: _Demand, slots: Slots, kind: _Work, own: OwnPhysics) -> Slotted:
    """What each worker saves in each slot: the dearest work first, as much as can be done."""
    second, due = own.usd_per_second, kind.due
    able = slots.capacities(demand.arrival, due, kind.seconds, own.profile.max_workers)
    dearest = np.lexsort((-demand.hosted_usd / np.maximum(kind.seconds, 1e-12), slots.number))
    work, usd = kind.seconds[dearest], demand.hosted_usd[dearest]
    whole = _falling(_worth(usd, work, slots, able))
    last = _falling(_worth(np.maximum(0.0, usd - second * work), work, slots, able))
    begins, reach = demand.arrival[slots.first], np.maximum.reduceat(due, slots.first)
    overlap = np.append(np.maximum(0.0, reach[:-1] - begins[1:]), np.inf)
    first = np.minimum(whole, last + second * overlap[:, None])
    return Slotted(begins, reach, whole, last, first)


def _worth(usd: Floats, work: Floats, slots: Slots, able: Floats) -> Floats:
    """[slot, k]: dollars of the first so many worker-seconds of each slot."""
    work_so_far, usd_so_far = np.append(0.0, np.cumsum(work)), np.append(0.0, np.cumsum(usd))
    before = work_so_far[slots.first][:, None]
    reach = np.minimum(before + able, work_so_far[slots.ends][:, None])
    worth: Floats = np.interp(reach, work_so_far, usd_so_far) - usd_so_far[slots.first][:, None]
    return worth


def _falling(worth: Floats) -> Floats:
    """What each further worker adds; never more than the one before it."""
    added = np.diff(worth, axis=1)
    for slot in np.flatnonzero((np.diff(added, axis=1) > 0.0).any(axis=1)):
        added[slot] = falling(added[slot].tolist())
    return added


def _start_seconds(scenario: Scenario, draws: Draws) -> float:
    return _least_start_seconds(draws) + scenario.own.profile.idle_timeout_seconds


def _least_start_seconds(draws: Draws) -> float:
    """What a start takes at least, on average, however many there are: the draws come in a fixed order."""
    means = np.cumsum(draws.cold_starts) / np.arange(1, len(draws.cold_starts) + 1)
    return float(means.min())


def _dual_usd(demand: _Demand, scenario: Scenario, draws: Draws, share: float) -> float:
    """By prices (dual.py). share: of the kind of work that is reading only; all of it ends with the first token."""
    work = share * demand.reading + (1.0 - share) * demand.mixed
    dual = Dual(
        demand.hosted_usd,
        work,
        demand.arrival,
        demand.first_due if share == 1.0 else demand.end_due,
        slot_seconds=max(_FINEST_SECONDS, float(demand.arrival[-1]) / _PRICED_SLOTS),
        usd_per_second=scenario.own.usd_per_second,
        start_seconds=_start_seconds(scenario, draws),
        workers=scenario.own.profile.max_workers,
        late_share=FREE_SHARE,
    )
    second = scenario.own.usd_per_second
    density = float(np.median(demand.hosted_usd / np.maximum(work, 1e-12)))
    starts = {(second, 0.0), (second, second), (max(second, 0.8 * density), second)}
    return max(dual.best(price, least_price) for price, least_price in starts)
