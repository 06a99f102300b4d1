"""Requests of the last minute or second, counted in buckets: the in-memory half of domain.quotas.RateWindow."""

from __future__ import annotations

from collections import deque

from vllm_service.domain.quotas import RateWindow


class SlidingWindow:
    """`total` requests count now. Time is given as a bucket's number, milliseconds // bucket_ms.

    A clock that goes back by less than the window stands still here; by more, the window begins anew.
    """

    __slots__ = ("_counts", "_newest", "_shape", "total")

    def __init__(self, shape: RateWindow) -> None:
        self._shape = shape
        self._counts: deque[list[int]] = deque()  # [bucket, requests], the oldest first
        self._newest: list[int] | None = None  # the last of them
        self.total = 0

    def advance(self, bucket: int) -> int:
        """Forgets what has left the window; returns the bucket that requests are counted in now."""
        newest = self._newest
        if newest is None or newest[0] == bucket:
            return bucket
        span = self._shape.buckets
        if bucket < newest[0] <= bucket + span:
            return newest[0]
        if bucket < newest[0]:
            self._counts.clear()
            self.total = 0
        counts = self._counts
        while counts and counts[0][0] < bucket - span:
            self.total -= counts.popleft()[1]
        self._newest = counts[-1] if counts else None
        return bucket

    def take(self, bucket: int) -> None:
        """Counts one request; `bucket` as `advance` returned it."""
        newest = self._newest
        if newest is not None and newest[0] == bucket:
            newest[1] += 1
        else:
            self._newest = [bucket, 1]
            self._counts.append(self._newest)
        self.total += 1

    def give_back(self, bucket: int) -> None:
        """Takes one request out of this bucket, if it still counts there."""
        for count in reversed(self._counts):
            if count[0] == bucket and count[1] > 0:
                count[1] -= 1
                self.total -= 1
                return

    def wait_ms(self, now_ms: int) -> int:
        """Until the oldest request that counts leaves the window."""
        oldest = next(bucket for bucket, requests in self._counts if requests)
        return oldest * self._shape.bucket_ms + self._shape.lifetime_ms - now_ms

    def is_idle(self, now_ms: int) -> bool:
        """Nothing counts any more: it may be forgotten, and made anew."""
        return not self._counts or self._counts[-1][0] < now_ms // self._shape.bucket_ms - self._shape.buckets
