"""The limits' names, windows and periods: a minute, a UTC day and a UTC month as limits count them."""

from __future__ import annotations

import calendar
import math
import time
from dataclasses import dataclass
from enum import StrEnum

SECONDS_PER_DAY = 86_400
ADDRESS_REQUESTS_PER_SECOND = 50


#: The most that one request takes of a count, and the most that a count holds: no sum of the two passes 64 bits.
MOST_OF_ONE_REQUEST = 10**17
MOST_OF_A_PERIOD = 2**62


class Limit(StrEnum):
    """A limit's name in `details.limit` of a 429. The Lua scripts number the limits in this order."""

    REQUESTS_PER_MINUTE = "requests_per_minute"
    ADDRESS_REQUESTS_PER_SECOND = "address_requests_per_second"
    REQUESTS_PER_DAY = "requests_per_day"
    TOKENS_PER_DAY = "tokens_per_day"
    TOKENS_PER_MONTH = "tokens_per_month"
    USD_PER_MONTH = "usd_per_month"
    CONCURRENT_REQUESTS = "concurrent_requests"
    ORGANISATION_CONCURRENT_REQUESTS = "organisation_concurrent_requests"


@dataclass(frozen=True, slots=True)
class RateWindow:
    """A sliding window, counted in `buckets` of `bucket_ms` each and the one that is filling.

    A request counts until its whole bucket is older than the window, so no stretch of time of the window's length ever
    holds more than the limit; a slot comes back at most one bucket later than an exact log would give it.
    """

    buckets: int
    bucket_ms: int

    @property
    def lifetime_ms(self) -> int:
        """How long a bucket counts, from its beginning."""
        return (self.buckets + 1) * self.bucket_ms


#: A minute in 60 buckets: a slot comes back at most a second late.
KEY_WINDOW = RateWindow(buckets=60, bucket_ms=1000)
#: A second in 20 buckets: a slot comes back at most 50 ms late.
ADDRESS_WINDOW = RateWindow(buckets=20, bucket_ms=50)


def utc_day(now_seconds: float) -> int:
    """Returns the days since 1970-01-01."""
    return int(now_seconds // SECONDS_PER_DAY)


def utc_month(day: int) -> int:
    """Returns the months since year 0, of the month that this day (since 1970) lies in."""
    date = time.gmtime(day * SECONDS_PER_DAY)
    return date.tm_year * 12 + date.tm_mon - 1


def seconds_to_next_day(now_seconds: float) -> float:
    """Returns the seconds until 00:00 UTC."""
    return (utc_day(now_seconds) + 1) * SECONDS_PER_DAY - now_seconds


def seconds_to_next_month(now_seconds: float) -> float:
    """Returns the seconds until 00:00 UTC of the next month's first day."""
    year, month = divmod(utc_month(utc_day(now_seconds)) + 1, 12)
    return calendar.timegm((year, month + 1, 1, 0, 0, 0)) - now_seconds


def try_again(wait_seconds: float) -> str:
    """Returns what to do after a limit, in tenths of a second, rounded up, so that the wait is never shown as none."""
    return f"try again in {math.ceil(round(wait_seconds * 10, 6)) / 10:,.1f} s"
