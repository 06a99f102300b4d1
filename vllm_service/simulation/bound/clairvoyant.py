"""A lower bound on what any policy can pay that keeps the floor, knowing the whole future.

What is relaxed, so that it is a bound (docs/routing.md has the argument):

* Of the requests, 1 % may be late, whichever saves most; they cost the work that they still are (savings.py).
* A hosted request costs its cheapest provider that does not refuse it. An own one takes worker-seconds within its
  deadlines, no fewer than any policy needs (work.py); any fraction of a request may be own.
* Traffic is cut into slots (slots.py), each with workers of its own: what the k-th saves in a slot falls with k, so
  each worker is decided alone (lives.py). Its life costs its start, its idle time-out and its time; in the slots in
  which it comes and goes, only the time of the work that it does.
* Nobody starts a worker before the first request, so none is there before the fastest of the first cold starts is over.
* Starts cost what so many cost together (starts.py). Every one is of a worker that answers something: policies that
  start workers only to be rid of a slow draw are not considered.

Any way to cut gives a true bound, and so does any kind of work and any price; the best that a search finds is reported.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from vllm_service.simulation.bound.savings import Prices, Savings
from vllm_service.simulation.bound.starts import least_with_starts, seconds_of_starts, start_prices
from vllm_service.simulation.bound.work import demand_of, kinds_of_work
from vllm_service.simulation.bound.worker_lifetimes import WorkerLifetimes
from vllm_service.simulation.draws import Draws
from vllm_service.simulation.scenario import Scenario
from vllm_service.simulation.trace import Trace

Floats = NDArray[np.float64]

FREE_SHARE = 0.01
_LONGEST_SECONDS = (5.0, 10.0, 20.0, 40.0, 80.0, 300.0)
_FIRST_PRICES = (Prices(0.0, 0.02), Prices(0.75, 0.04))
_WORK_SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
_LATE_SHARES = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.3, 0.5, 0.7)


@dataclass(frozen=True)
class Bound:
    """Dollars that nobody can beat, and what the workers of the cheapest relaxed schedule would do."""

    usd: float
    worker_seconds: float
    starts: int


@dataclass(frozen=True)
class _Found:
    """A bound, and where it was found. lives: for the price of a start that shows it."""

    usd: float
    starts: int
    lives: WorkerLifetimes
    savings: Savings
    prices: Prices


@dataclass(frozen=True)
class _Starts:
    """usd[N]: of N starts together. price_usd: what one might cost."""

    usd: Floats
    price_usd: Floats

    def bound(self, savings: Savings, prices: Prices) -> _Found:
        """The one that these prices show."""
        least_usd, lives = savings.least_usd(prices, self.price_usd)
        usd, number, price = least_with_starts(least_usd, self.price_usd, self.usd)
        return _Found(usd, number, lives[price], savings, prices)


def clairvoyant(trace: Trace, scenario: Scenario, draws: Draws) -> Bound:
    """The best of the bounds; never more than everything hosted costs."""
    own = scenario.own
    demand = demand_of(trace, scenario, draws)
    late = int(FREE_SHARE * len(trace) + 1e-9)
    seconds = seconds_of_starts(draws, own.profile.idle_timeout_seconds, len(trace))
    starts = _Starts(own.usd_per_second * seconds, own.usd_per_second * start_prices(seconds))
    cuts = [
        Savings.cut(demand, work, longest, own, late)
        for work, longest in product(kinds_of_work(demand, own), _LONGEST_SECONDS)
    ]
    found = max((starts.bound(*each) for each in product(cuts, _FIRST_PRICES)), key=_usd)
    found = _searched(starts, _searched(starts, found))
    return Bound(found.usd, found.lives.seconds + float(seconds[found.starts]), found.starts)


def _searched(starts: _Starts, found: _Found) -> _Found:
    """The best of either price, the other as it was."""
    for share in _WORK_SHARES:
        found = max(found, starts.bound(found.savings, found.prices._replace(work_share=share)), key=_usd)
    for share in _LATE_SHARES:
        found = max(found, starts.bound(found.savings, found.prices._replace(late_share=share)), key=_usd)
    return found


def _usd(found: _Found) -> float:
    return found.usd
