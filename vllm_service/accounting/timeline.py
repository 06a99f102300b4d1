"""A stretch of time on which intervals lie: how much of it is covered, each interval's share, and the gaps."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

# A moment shared by n is counted n times as 1/n of it, rounded down to this fraction of a microsecond.
_PARTS = 1 << 20


class Timeline:
    """Of intervals in microseconds, sorted by their starts, between `begin` and `end`.

    shares: each interval's part of the covered time, where moments that several cover are shared evenly; integers of
    one unit, not microseconds.
    """

    def __init__(self, intervals: Sequence[tuple[int, int]], begin: int, end: int) -> None:
        self._clipped = [(min(max(start, begin), end), min(max(stop, begin), end)) for start, stop in intervals]
        self._begin, self._end = begin, end
        moments = sorted({moment for interval in self._clipped for moment in interval})
        grown = self._share_until(moments)
        position = {moment: number for number, moment in enumerate(moments)}
        self.shares = [grown[position[stop]] - grown[position[start]] for start, stop in self._clipped]
        self.idle_us = sum(length for length, _ in self.gaps())
        self.busy_us = end - begin - self.idle_us

    def gaps(self) -> Iterator[tuple[int, int | None]]:
        """Length of each stretch that nothing covers, and which interval ended last before it; None: none had.

        One that ended before the stretch began, or as it began itself, was never on it.
        """
        covered_until: int = self._begin
        last: int | None = None
        for number, (start, stop) in enumerate(self._clipped):
            if stop == start:
                continue
            if start > covered_until:
                yield start - covered_until, last
            if stop >= covered_until:
                covered_until, last = stop, number
        if self._end > covered_until:
            yield self._end - covered_until, last

    def _share_until(self, moments: Sequence[int]) -> list[int]:
        """What an interval that covers everything up to each moment would have as its share."""
        changes = [0] * len(moments)
        for start, stop in self._clipped:
            changes[bisect_left(moments, start)] += 1
            changes[bisect_left(moments, stop)] -= 1
        grown, running, total = [], 0, 0
        for number, moment in enumerate(moments):
            if running:
                total += (moment - moments[number - 1]) * _PARTS // running
            grown.append(total)
            running += changes[number]
        return grown
