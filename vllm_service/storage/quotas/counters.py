"""What one process has counted: requests of the last minute, and an organisation's use by UTC day and month."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from vllm_service.domain.quotas import SECONDS_PER_DAY, RateWindow, utc_day, utc_month


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


# (organisation, "day" or "month", number of the day or month as in domain.quotas)
PeriodKey = tuple[str, str, int]
Counts = tuple[int, int, int]  # requests, tokens, pico-dollars


class Period:
    """What was taken in one day or month: settled and reserved together, and of that what is settled.

    unsaved: it is added here once something was settled that is not on disk.
    """

    __slots__ = (
        "_unsaved", "key", "picousd", "requests", "saved", "settled_picousd", "settled_requests", "settled_tokens",
        "tokens",
    )  # fmt: skip

    def __init__(self, key: PeriodKey, counts: Counts, unsaved: set[Period]) -> None:
        self.key = key
        self.requests, self.tokens, self.picousd = counts
        self.settled_requests, self.settled_tokens, self.settled_picousd = counts
        self.saved = counts
        self._unsaved = unsaved

    def reserve(self, tokens: int, picousd: int) -> None:
        """One request, with at most so much."""
        self.requests += 1
        self.tokens += tokens
        self.picousd += picousd

    def give_back(self, tokens: int, picousd: int) -> None:
        """The reverse of `reserve`."""
        self.requests -= 1
        self.tokens -= tokens
        self.picousd -= picousd

    def settle(self, tokens: int, picousd: int, reserved_tokens: int, reserved_picousd: int) -> None:
        """A request for which this much was reserved has really used so much."""
        self.tokens += tokens - reserved_tokens
        self.picousd += picousd - reserved_picousd
        self.settled_requests += 1
        self.settled_tokens += tokens
        self.settled_picousd += picousd
        self._unsaved.add(self)

    def take_unsaved(self) -> Counts:
        """What was settled since this was last called."""
        requests, tokens, picousd = self.saved
        self.saved = self.settled_requests, self.settled_tokens, self.settled_picousd
        return self.saved[0] - requests, self.saved[1] - tokens, self.saved[2] - picousd

    def put_back(self, counts: Counts) -> None:
        """These could not be saved after all."""
        self.saved = self.saved[0] - counts[0], self.saved[1] - counts[1], self.saved[2] - counts[2]
        self._unsaved.add(self)


class Periods:
    """The periods of all organisations. Those in `unsaved` hold something for who keeps it on disk."""

    def __init__(self, saved: Mapping[PeriodKey, Counts]) -> None:
        self.unsaved: set[Period] = set()
        self._periods = {key: Period(key, counts, self.unsaved) for key, counts in saved.items()}
        self._begins = self._ends = 0.0  # of the day that `_present` is of
        self._present: dict[str, tuple[Period, Period]] = {}  # by organisation

    def at(self, organisation: str, now_seconds: float) -> tuple[Period, Period]:
        """The day and the month that this time lies in."""
        if not self._begins <= now_seconds < self._ends:
            self._begins = float(utc_day(now_seconds) * SECONDS_PER_DAY)
            self._ends = self._begins + SECONDS_PER_DAY
            self._present.clear()
        return self._present.get(organisation) or self._find(organisation, utc_day(now_seconds))

    def forget_before(self, now_seconds: float) -> None:
        """Drops what ended over a week or two months ago: a clock that jumps ahead and back finds its day again."""
        day = utc_day(now_seconds)
        oldest = {"day": day - 7, "month": utc_month(day) - 2}
        self._periods = {key: period for key, period in self._periods.items() if key[2] >= oldest[key[1]]}
        self._present.clear()

    def _find(self, organisation: str, day: int) -> tuple[Period, Period]:
        both = self._period((organisation, "day", day)), self._period((organisation, "month", utc_month(day)))
        self._present[organisation] = both
        return both

    def _period(self, key: PeriodKey) -> Period:
        period = self._periods.get(key)
        if period is None:
            period = self._periods[key] = Period(key, (0, 0, 0), self.unsaved)
        return period
