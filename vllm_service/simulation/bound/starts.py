"""What starts cost: so many of them take the sum of as many draws, which come in a fixed order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vllm_service.simulation.draws import Draws

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
