"""A histogram of fixed size for one quantity in milliseconds; its quantiles are within 2.5 % of the exact ones."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from operator import add

# 48 bounds to a decade: neighbours differ by the factor 10^(1/48) = 1.049, and half of it is the error of 2.5 %. The
# four round ones are bounds that dashboards show, which makes their counts exact.
_MANTISSAS = sorted([10 ** (step / 48) for step in range(48)] + [2.0, 2.5, 3.0, 5.0])

#: Inclusive upper bounds from 1 ms to an hour. Longer values have a last bucket without a bound.
BOUNDS_MS: tuple[float, ...] = tuple(
    bound for decade in range(7) for mantissa in _MANTISSAS if (bound := mantissa * 10**decade) <= 3_700_000
)
LARGEST_RELATIVE_ERROR = 0.025


class Distribution:
    """Counts per bucket, with the exact sum, least and greatest value. It takes 3 kB, however many values are added.

    Between 1 ms and an hour, the error of a quantile is at most LARGEST_RELATIVE_ERROR, half a bucket on a logarithmic
    scale, plus the distance of two neighbouring values. Below 1 ms it is at most 1 ms.
    """

    __slots__ = ("counts", "greatest_ms", "least_ms", "sum_ms")

    def __init__(self) -> None:
        #: By bucket, the one without a bound last.
        self.counts = array("Q", bytes(8 * (len(BOUNDS_MS) + 1)))
        self.sum_ms = 0.0
        self.least_ms: float | None = None
        self.greatest_ms: float | None = None

    def add_all(self, milliseconds: Sequence[float]) -> None:
        """Adds values."""
        if not milliseconds:
            return
        counts = self.counts
        for value in milliseconds:
            counts[bisect_left(BOUNDS_MS, value)] += 1
        self.sum_ms += sum(milliseconds)
        least = min(milliseconds)
        greatest = max(milliseconds)
        self.least_ms = least if self.least_ms is None else min(self.least_ms, least)
        self.greatest_ms = greatest if self.greatest_ms is None else max(self.greatest_ms, greatest)

    def merge(self, other: Distribution) -> None:
        """Adds all values of the other."""
        if other.least_ms is None or other.greatest_ms is None:
            return
        self.counts = array("Q", map(add, self.counts, other.counts))
        self.sum_ms += other.sum_ms
        self.least_ms = other.least_ms if self.least_ms is None else min(self.least_ms, other.least_ms)
        self.greatest_ms = other.greatest_ms if self.greatest_ms is None else max(self.greatest_ms, other.greatest_ms)

    @property
    def count(self) -> int:
        """The number of values."""
        return sum(self.counts)

    @property
    def mean_ms(self) -> float | None:
        """The exact mean; None without values."""
        count = self.count
        return self.sum_ms / count if count else None

    def quantile_ms(self, share: float) -> float | None:
        """Returns the value that a `share` (0-1) of all values do not exceed; None without values."""
        if self.least_ms is None or self.greatest_ms is None:
            return None
        running = list(accumulate(self.counts))
        # The rank is the share of all values, rounded up, and at least the first value.
        index = bisect_left(running, max(1, -int(-share * running[-1] // 1)))
        return min(max(_middle_ms(index), self.least_ms), self.greatest_ms)

    def cumulative(self, bounds_ms: Sequence[float]) -> list[int]:
        """Returns how many values do not exceed each bound: exact for bounds of BOUNDS_MS."""
        running = [0, *accumulate(self.counts)]
        return [running[bisect_left(BOUNDS_MS, bound) + 1] for bound in bounds_ms]


def _middle_ms(index: int) -> float:
    """Returns the geometric middle of a bucket: the value with the least relative error to both bounds."""
    if index == 0:
        return BOUNDS_MS[0] / 2
    if index == len(BOUNDS_MS):
        return float("inf")
    return math.sqrt(BOUNDS_MS[index - 1] * BOUNDS_MS[index])
