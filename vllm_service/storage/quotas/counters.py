"""Counts of one process: requests of the last minute, and an organisation's use by UTC day and month."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from vllm_service.domain.quotas import MOST_OF_ONE_REQUEST, SECONDS_PER_DAY, RateWindow, utc_day, utc_month


class SlidingWindow:
    """Counts requests in buckets of time. A bucket's number is milliseconds // bucket_ms.

    For a clock that goes back by less than the window, time stands still here. For one that goes back by more, the
    window begins anew.
    """

    __slots__ = ("_in_newest", "_older", "_shape", "newest", "total")

    def __init__(self, shape: RateWindow) -> None:
        self._shape = shape
        #: The last bucket in which a request counts; None if there is none. In it `advance` has nothing to do.
        self.newest: int | None = None
        self._in_newest = 0
        #: Those before it with their requests, the oldest first. Buckets in which no request came are left out.
        self._older: deque[tuple[int, int]] = deque()
        #: How many requests count now.
        self.total = 0

    def advance(self, bucket: int) -> int:
        """Removes what has left the window; returns the bucket in which requests count now."""
        newest = self.newest
        if newest is None or newest == bucket:
            return bucket
        oldest = bucket - self._shape.buckets
        # The clock has gone back a little. Counting on in the newest bucket keeps them sorted and the limit kept.
        if bucket < newest <= bucket + self._shape.buckets:
            return newest
        older = self._older
        if bucket < newest or newest < oldest:
            older.clear()
            self.newest = None
            self.total = 0
        while older and older[0][0] < oldest:
            self.total -= older.popleft()[1]
        return bucket

    def take(self, bucket: int) -> None:
        """Counts one request in a bucket that `advance` returned."""
        if bucket == self.newest:
            self._in_newest += 1
        else:
            if self.newest is not None:
                self._older.append((self.newest, self._in_newest))
            self.newest = bucket
            self._in_newest = 1
        self.total += 1

    def wait_ms(self, now_ms: int) -> int:
        """Returns the milliseconds until the oldest request leaves the window; its length if there is none."""
        oldest = self._older[0][0] if self._older else self.newest
        if oldest is None:
            oldest = now_ms // self._shape.bucket_ms
        return oldest * self._shape.bucket_ms + self._shape.lifetime_ms - now_ms

    def is_idle(self, now_ms: int) -> bool:
        """True if nothing counts any more: the window may be dropped, and made anew later."""
        return self.newest is None or self.newest < now_ms // self._shape.bucket_ms - self._shape.buckets


def bounded(amount: int) -> int:
    """Returns an amount of tokens or pico-dollars that every store of counts can hold."""
    return min(max(0, amount), MOST_OF_ONE_REQUEST)


def both_bounded(tokens: int, picousd: int) -> tuple[int, int]:
    """Returns both amounts, bounded. Nearly all are within the bounds as they come."""
    if 0 <= tokens <= MOST_OF_ONE_REQUEST and 0 <= picousd <= MOST_OF_ONE_REQUEST:
        return tokens, picousd
    return bounded(tokens), bounded(picousd)


#: Organisation, "day" or "month", and the number of that day or month as in domain.quotas.
PeriodKey = tuple[str, str, int]
#: Requests, tokens, pico-dollars.
Counts = tuple[int, int, int]


class Period:
    """An organisation's use of one day or month."""

    __slots__ = (
        "_unsaved", "key", "picousd", "requests", "saved", "settled_picousd", "settled_requests", "settled_tokens",
        "tokens",
    )  # fmt: skip

    def __init__(self, key: PeriodKey, counts: Counts, unsaved: set[Period]) -> None:
        self.key = key
        # Settled and reserved together: what the limits compare with. Only what is settled goes to disk: after a crash
        # the reservations of the dead process are gone, as they should be.
        self.requests, self.tokens, self.picousd = counts
        self.settled_requests, self.settled_tokens, self.settled_picousd = counts
        #: What of the settled is on disk.
        self.saved = counts
        #: The set that this period joins once it has something settled that is not on disk.
        self._unsaved = unsaved

    def reserve(self, tokens: int, picousd: int) -> None:
        """Reserves one request, with upper bounds of its tokens and cost."""
        self.requests += 1
        self.tokens += tokens
        self.picousd += picousd

    def give_back(self, tokens: int, picousd: int) -> None:
        """Undoes `reserve`."""
        self.requests -= 1
        self.tokens -= tokens
        self.picousd -= picousd

    def settle(self, tokens: int, picousd: int, reserved_tokens: int, reserved_picousd: int) -> None:
        """Replaces what was reserved for one request by what it used."""
        self.tokens += tokens - reserved_tokens
        self.picousd += picousd - reserved_picousd
        self.settled_requests += 1
        self.settled_tokens += tokens
        self.settled_picousd += picousd
        self._unsaved.add(self)

    @property
    def settled(self) -> Counts:
        """The settled part."""
        return self.settled_requests, self.settled_tokens, self.settled_picousd

    def hand_over(self, counts: Counts) -> None:
        """Removes a part of what is settled: another store counts it from now on."""
        requests, tokens, picousd = counts
        self.requests -= requests
        self.tokens -= tokens
        self.picousd -= picousd
        self.settled_requests -= requests
        self.settled_tokens -= tokens
        self.settled_picousd -= picousd

    def take_unsaved(self) -> Counts:
        """Returns what was settled since the last call, and takes it for saved."""
        requests, tokens, picousd = self.saved
        self.saved = self.settled
        return self.saved[0] - requests, self.saved[1] - tokens, self.saved[2] - picousd

    def put_back(self, counts: Counts) -> None:
        """Takes back counts that could not be saved."""
        self.saved = self.saved[0] - counts[0], self.saved[1] - counts[1], self.saved[2] - counts[2]
        self._unsaved.add(self)


class Periods:
    """The days and months of all organisations."""

    def __init__(self, saved: Mapping[PeriodKey, Counts]) -> None:
        #: Periods that hold settled counts which are not on disk.
        self.unsaved: set[Period] = set()
        self._periods = {key: Period(key, counts, self.unsaved) for key, counts in saved.items()}
        #: The present UTC day, in seconds since 1970, and by organisation its day and month: so that a request pays for
        #: one look-up, and for no arithmetic of dates.
        self._day_begins = 0.0
        self._day_ends = 0.0
        self._present: dict[str, tuple[Period, Period]] = {}

    def at(self, organisation: str, now_seconds: float) -> tuple[Period, Period]:
        """Returns the day and the month of this time."""
        if not self._day_begins <= now_seconds < self._day_ends:
            self._day_begins = float(utc_day(now_seconds) * SECONDS_PER_DAY)
            self._day_ends = self._day_begins + SECONDS_PER_DAY
            self._present.clear()
        return self._present.get(organisation) or self._find(organisation, utc_day(now_seconds))

    def settled(self) -> list[Period]:
        """Returns the periods that have something settled."""
        return [period for period in self._periods.values() if period.settled_requests]

    def forget_before(self, now_seconds: float) -> None:
        """Drops days and months that are long over. A clock that jumps to and fro within a week finds its day again."""
        day = utc_day(now_seconds)
        oldest = {"day": day - 7, "month": utc_month(day) - 2}
        self._periods = {key: period for key, period in self._periods.items() if key[2] >= oldest[key[1]]}
        self._present.clear()

    def _find(self, organisation: str, day: int) -> tuple[Period, Period]:
        day_and_month = (
            self._period((organisation, "day", day)),
            self._period((organisation, "month", utc_month(day))),
        )
        self._present[organisation] = day_and_month
        return day_and_month

    def _period(self, key: PeriodKey) -> Period:
        period = self._periods.get(key)
        if period is None:
            period = self._periods[key] = Period(key, (0, 0, 0), self.unsaved)
        return period
