"""A span of time on which intervals lie: how much of it is covered, each interval's share, and the gaps."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

#: Shares are counted in this fraction of a microsecond: a span that n intervals cover gives each 1/n of it, rounded
#: down, and a finer unit keeps that rounding small beside the pico-dollars that are split by them.
_PARTS = 1 << 20


class Timeline:
    """Intervals in microseconds, sorted by their starts, as they lie between `begin` and `end`."""

    def __init__(self, intervals: Sequence[tuple[int, int]], begin: int, end: int) -> None:
        self._clipped = [(min(max(start, begin), end), min(max(stop, begin), end)) for start, stop in intervals]
        self._begin = begin
        self._end = end
        edges = sorted({edge for interval in self._clipped for edge in interval})
        grown = self._share_until(edges)
        position = {edge: number for number, edge in enumerate(edges)}
        #: Each interval's part of the covered time, in 1 / _PARTS us; time that several cover is shared evenly.
        self.shares = [grown[position[stop]] - grown[position[start]] for start, stop in self._clipped]
        #: The number of the interval that ends last, or lasts until the end; None if nothing is covered.
        self.last = self._last()
        self.idle_us = sum(length for length, _ in self.gaps())
        self.busy_us = end - begin - self.idle_us

    def gaps(self) -> Iterator[tuple[int, int | None]]:
        """Yields the length of each span that nothing covers, and the number of the interval that ended last before it.

        None if no interval had. One that ended before `begin`, or at it, is clipped to no length and was never there.
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

    def _last(self) -> int | None:
        ends = ((stop, number) for number, (start, stop) in enumerate(self._clipped) if stop > start)
        return max(ends, default=(0, None))[1]

    def _share_until(self, edges: Sequence[int]) -> list[int]:
        """Returns the share that an interval would have that covers everything up to each edge.

        An interval's own share is a difference of two of these, so all of them cost one pass over the edges.
        """
        changes = [0] * len(edges)
        for start, stop in self._clipped:
            changes[bisect_left(edges, start)] += 1
            changes[bisect_left(edges, stop)] -= 1
        grown = []
        running = 0
        total = 0
        for number, edge in enumerate(edges):
            if running:
                total += (edge - edges[number - 1]) * _PARTS // running
            grown.append(total)
            running += changes[number]
        return grown
