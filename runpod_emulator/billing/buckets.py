"""The time buckets of a bill: hours, days, weeks, months and years of UTC, and the window that a query asks for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

from runpod_emulator.errors import BadRequest

BucketSize = Literal["hour", "day", "week", "month", "year"]
SIZES: tuple[BucketSize, ...] = get_args(BucketSize)
#: The window without a startTime, as in RunPod's schema of 2026-08.
DEFAULT_WINDOW = timedelta(days=30)
#: Of one answer, so that a query costs little. RunPod names no limit.
MOST_BUCKETS = 10_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Window:
    """The range of a query, aligned to its buckets. The end is exclusive."""

    start: datetime
    end: datetime
    size: BucketSize

    def buckets(self) -> Iterator[tuple[datetime, datetime]]:
        """Yields the range of each bucket."""
        start = self.start
        while start < self.end:
            end = following(start, self.size)
            yield start, end
            start = end


def window(now: datetime, size: BucketSize, start: datetime | None = None, end: datetime | None = None) -> Window:
    """Returns the window from `start` to `end`, widened to whole buckets. Raises BadRequest."""
    try:
        end = now if end is None else end
        start = end - DEFAULT_WINDOW if start is None else start
        if start > end:
            raise BadRequest("startTime: expected a time before endTime")
        first, last = beginning(start, size), beginning(end, size)
        last = last if last == end.astimezone(UTC) else following(last, size)
    except OverflowError:
        raise BadRequest("startTime and endTime: expected times from the year 2 to 9998") from None
    return _bounded(Window(first, last, size))


def last_buckets(now: datetime, size: BucketSize, number: int) -> Window:
    """Returns the window of the last buckets, the present one included. Raises BadRequest."""
    if number > MOST_BUCKETS:
        raise BadRequest(f"lastN: expected at most {MOST_BUCKETS} buckets")
    start = beginning(now, size)
    end = following(start, size)
    try:
        for _ in range(number - 1):
            start = beginning(start - timedelta(microseconds=1), size)
    except OverflowError:
        raise BadRequest("lastN: goes back before the year 1") from None
    return Window(start, end, size)


def beginning(at: datetime, size: BucketSize) -> datetime:
    """Returns the start of the bucket that holds a moment. Weeks start on Mondays."""
    hour = at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    if size == "hour":
        return hour
    day = hour.replace(hour=0)
    if size == "week":
        return day - timedelta(days=day.weekday())
    if size == "month":
        return day.replace(day=1)
    return day.replace(month=1, day=1) if size == "year" else day


def following(start: datetime, size: BucketSize) -> datetime:
    """Returns the start of the next bucket."""
    if size == "hour":
        return start + timedelta(hours=1)
    if size in ("day", "week"):
        return start + timedelta(days=1 if size == "day" else 7)
    # A month or a year that begins has passed within 31 or 366 days.
    return beginning(start + timedelta(days=31 if size == "month" else 366), size)


def microseconds(at: datetime) -> int:
    """Returns the microseconds since 1970, exactly."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def moment(at_us: int) -> datetime:
    """Returns the time of microseconds since 1970, exactly."""
    return _EPOCH + timedelta(microseconds=at_us)


def _bounded(asked: Window) -> Window:
    shortest = {"hour": 3600, "day": 86_400, "week": 604_800, "month": 28 * 86_400, "year": 365 * 86_400}
    if (asked.end - asked.start).total_seconds() / shortest[asked.size] > MOST_BUCKETS:
        raise BadRequest(
            f"startTime: the window has more than {MOST_BUCKETS} buckets; ask for less time, or a larger bucketSize"
        )
    return asked
