"""How one quantity in milliseconds is spread: a histogram of fixed size that answers any quantile within 2.5 %."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from operator import add

# 48 bounds to a decade from 1 ms to an hour, and exactly those that people and dashboards ask for.
_MANTISSAS = sorted([10 ** (step / 48) for step in range(48)] + [2.0, 2.5, 3.0, 5.0])

# Upper bounds, inclusive; what is longer than the last falls into one bucket more.
BOUNDS_MS: tuple[float, ...] = tuple(
    bound for decade in range(7) for mantissa in _MANTISSAS if (bound := mantissa * 10**decade) <= 3_700_000
)
LARGEST_RELATIVE_ERROR = 0.025


class Distribution:
    """Counts per bucket, and the exact sum, least and greatest. 3 kB however much is added.

    A quantile is off by at most LARGEST_RELATIVE_ERROR between 1 ms and an hour (half a bucket, geometrically), plus
    what lies between two neighbouring values; below 1 ms by at most 1 ms.
    """

    __slots__ = ("counts", "greatest_ms", "least_ms", "sum_ms")

    def __init__(self) -> None:
        self.counts = array("Q", bytes(8 * (len(BOUNDS_MS) + 1)))
        self.sum_ms = 0.0
        self.least_ms: float | None = None
        self.greatest_ms: float | None = None

    def add_all(self, milliseconds: Sequence[float]) -> None:
        """More values."""
        if not milliseconds:
            return
        counts = self.counts
        for value in milliseconds:
            counts[bisect_left(BOUNDS_MS, value)] += 1
        self.sum_ms += sum(milliseconds)
        least, greatest = min(milliseconds), max(milliseconds)
        self.least_ms = least if self.least_ms is None else min(self.least_ms, least)
        self.greatest_ms = greatest if self.greatest_ms is None else max(self.greatest_ms, greatest)

    def merge(self, other: Distribution) -> None:
        """Everything that the other holds, too."""
        if other.least_ms is None or other.greatest_ms is None:
            return
        self.counts = array("Q", map(add, self.counts, other.counts))
        self.sum_ms += other.sum_ms
        self.least_ms = other.least_ms if self.least_ms is None else min(self.least_ms, other.least_ms)
        self.greatest_ms = other.greatest_ms if self.greatest_ms is None else max(self.greatest_ms, other.greatest_ms)

    @property
    def count(self) -> int:
        """How many values were added."""
        return sum(self.counts)

    @property
    def mean_ms(self) -> float | None:
        """The exact mean; None of nothing."""
        count = self.count
        return self.sum_ms / count if count else None

    def quantile_ms(self, share: float) -> float | None:
        """The value that `share` (0-1) of all values do not exceed; None of nothing."""
        if self.least_ms is None or self.greatest_ms is None:
            return None
        running = list(accumulate(self.counts))
        index = bisect_left(running, max(1, -int(-share * running[-1] // 1)))
        return min(max(_middle_ms(index), self.least_ms), self.greatest_ms)

    def cumulative(self, bounds_ms: Sequence[float]) -> list[int]:
        """How many values do not exceed each bound. Exact for bounds of BOUNDS_MS."""
        running = [0, *accumulate(self.counts)]
        return [running[bisect_left(BOUNDS_MS, bound) + 1] for bound in bounds_ms]


def _middle_ms(index: int) -> float:
    if index == 0:
        return BOUNDS_MS[0] / 2
    if index == len(BOUNDS_MS):
        return float("inf")
    return math.sqrt(BOUNDS_MS[index - 1] * BOUNDS_MS[index])
