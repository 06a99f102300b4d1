"""A lower bound on what any policy can pay that keeps the floor, knowing the whole future."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from vllm_service.simulation.bound.savings import Prices, Savings
from vllm_service.simulation.bound.work import demand_of, kinds_of_work
from vllm_service.simulation.bound.worker_lifetimes import WorkerLifetimes
from vllm_service.simulation.draws import Draws
from vllm_service.simulation.scenario import Scenario
from vllm_service.simulation.trace import Trace

Floats = NDArray[np.float64]
_BELOW, _BETWEEN, _ABOVE = np.array([0.0, 0.4, 0.7, 0.9]), 5, np.array([1.3])


def seconds_of_starts(draws: Draws, idle_seconds: float, most: int) -> Floats:
    """Of 0, 1, ... `most` starts together, with the idle time-out that ends each life."""
    rounds = -(-most // len(draws.cold_starts))
    cold = np.tile(draws.cold_starts, rounds)[:most]
    return np.append(0.0, np.cumsum(cold + idle_seconds))


def start_prices(seconds: Floats) -> Floats:
    """Seconds per start: between the lowest and the highest of the running means, and beyond both."""
    means = seconds[1:] / np.arange(1, len(seconds))
    lowest, highest = float(means.min()), float(means.max())
    return np.concatenate([lowest * _BELOW, np.linspace(lowest, highest, _BETWEEN), highest * _ABOVE])


def least_with_starts(least_usd: Floats, price_usd: Floats, starts_usd: Floats) -> tuple[float, int, int]:
    """Dollars, for how many starts, and the price that shows it: the least over their number of the best of any price.

    least_usd[i]: a bound where each start costs price_usd[i]. Any schedule with N starts costs at least that, plus what
    N starts really cost (starts_usd[N]) less N times the price.
    """
    each = least_usd[:, None] - price_usd[:, None] * np.arange(len(starts_usd))
    total = each.max(axis=0) + starts_usd
    number = int(total.argmin())
    return float(total[number]), number, int(each[:, number].argmax())


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
