"""A lower bound on what any policy can pay that keeps the floor, even with foresight of the whole trace."""

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
# Ten prices of a start are tried: factors of the lowest mean, so many between both, and a factor of the highest.
_BELOW = np.array([0.0, 0.4, 0.7, 0.9])
_BETWEEN = 5
_ABOVE = np.array([1.3])


def seconds_of_starts(draws: Draws, idle_seconds: float, most: int) -> Floats:
    """Returns the seconds of 0, 1, ... `most` starts together, with the idle timeout that ends each lifetime.

    Draws come in a fixed order and repeat, as in Draws.cold_seconds.
    """
    rounds = -(-most // len(draws.cold_starts))
    cold = np.tile(draws.cold_starts, rounds)[:most]
    return np.append(0.0, np.cumsum(cold + idle_seconds))


def start_prices(seconds: Floats) -> Floats:
    """Returns seconds per start to try as its price: between the lowest and highest running mean, and beyond both."""
    means = seconds[1:] / np.arange(1, len(seconds))
    lowest, highest = float(means.min()), float(means.max())
    return np.concatenate([lowest * _BELOW, np.linspace(lowest, highest, _BETWEEN), highest * _ABOVE])


def least_with_starts(least_usd: Floats, price_usd: Floats, starts_usd: Floats) -> tuple[float, int, int]:
    """Returns dollars, the number of starts and the price that prove them: the least over the numbers of starts.

    For each number the best of all prices counts. least_usd[i]: a bound where each start costs price_usd[i]. Any
    schedule with N starts costs at least that, plus what N starts really cost (starts_usd[N]) less N times the price.
    """
    each = least_usd[:, None] - price_usd[:, None] * np.arange(len(starts_usd))
    total = each.max(axis=0) + starts_usd
    number = int(total.argmin())
    return float(total[number]), number, int(each[:, number].argmax())


#: The share of requests that may be late: the floor is 99 % in time.
FREE_SHARE = 0.01
#: The lengths of slots that are tried: which one bounds best depends on the traffic.
_LONGEST_SECONDS = (5.0, 10.0, 20.0, 40.0, 80.0, 300.0)
#: The prices with which every cut is tried; only the best cut is improved further.
_FIRST_PRICES = (Prices(0.0, 0.02), Prices(0.75, 0.04))
# The values of either price that are tried in turn.
_WORK_SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
_LATE_SHARES = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.3, 0.5, 0.7)


@dataclass(frozen=True)
class Bound:
    """Dollars that no policy can beat, and what the workers of the cheapest relaxed schedule would do."""

    usd: float
    worker_seconds: float
    starts: int


@dataclass(frozen=True)
class _Proven:
    """A bound, and the relaxation that proves it."""

    usd: float
    starts: int
    #: For the price of a start that proves the bound.
    lifetimes: WorkerLifetimes
    savings: Savings
    prices: Prices


@dataclass(frozen=True)
class _Starts:
    """The costs of starts."""

    #: [N]: dollars of N starts together.
    usd: Floats
    #: The prices of one start that are tried.
    price_usd: Floats

    def bound(self, savings: Savings, prices: Prices) -> _Proven:
        """Returns the bound that these prices prove."""
        least_usd, lifetimes = savings.least_usd(prices, self.price_usd)
        usd, number, price = least_with_starts(least_usd, self.price_usd, self.usd)
        return _Proven(usd, number, lifetimes[price], savings, prices)


def clairvoyant(trace: Trace, scenario: Scenario, draws: Draws) -> Bound:
    """Returns the highest of the bounds. It is never more than what everything hosted costs."""
    own = scenario.own
    demand = demand_of(trace, scenario, draws)
    late = int(FREE_SHARE * len(trace) + 1e-9)
    seconds = seconds_of_starts(draws, own.profile.idle_timeout_seconds, len(trace))
    starts = _Starts(own.usd_per_second * seconds, own.usd_per_second * start_prices(seconds))
    cuts = [
        Savings.cut(demand, work, longest, own, late)
        for work, longest in product(kinds_of_work(demand, own), _LONGEST_SECONDS)
    ]
    # Every relaxation proves a lower bound, so the highest one is the best, and the search may stop anywhere.
    best = max((starts.bound(*each) for each in product(cuts, _FIRST_PRICES)), key=_usd)
    best = _improved(starts, _improved(starts, best))
    return Bound(best.usd, best.lifetimes.seconds + float(seconds[best.starts]), best.starts)


def _improved(starts: _Starts, best: _Proven) -> _Proven:
    """Returns the best bound over the values of either price in turn, the other as it was."""
    for share in _WORK_SHARES:
        best = max(best, starts.bound(best.savings, best.prices._replace(work_share=share)), key=_usd)
    for share in _LATE_SHARES:
        best = max(best, starts.bound(best.savings, best.prices._replace(late_share=share)), key=_usd)
    return best


def _usd(bound: _Proven) -> float:
    return bound.usd
