"""What one process has counted for organisations, by UTC day and month."""

from __future__ import annotations

from collections.abc import Mapping

from vllm_service.domain.quotas import utc_day, utc_month

# (organisation, "day" or "month", number of the day or month as in domain.quotas)
PeriodKey = tuple[str, str, int]
Counts = tuple[int, int, int]  # requests, tokens, pico-dollars


class Period:
    """What was taken in one day or month: settled and reserved together, and of that what is only reserved."""

    __slots__ = ("key", "picousd", "requests", "reserved_picousd", "reserved_requests", "reserved_tokens", "tokens")

    def __init__(self, key: PeriodKey, counts: Counts = (0, 0, 0)) -> None:
        self.key = key
        self.requests, self.tokens, self.picousd = counts
        self.reserved_requests = self.reserved_tokens = self.reserved_picousd = 0

    def reserve(self, tokens: int, picousd: int) -> None:
        """One request, with at most so much."""
        self.requests += 1
        self.tokens += tokens
        self.picousd += picousd
        self.reserved_requests += 1
        self.reserved_tokens += tokens
        self.reserved_picousd += picousd

    def give_back(self, tokens: int, picousd: int) -> None:
        """The reverse of `reserve`."""
        self.requests -= 1
        self.tokens -= tokens
        self.picousd -= picousd
        self.reserved_requests -= 1
        self.reserved_tokens -= tokens
        self.reserved_picousd -= picousd


class Periods:
    """The periods of all organisations. What is settled is also noted in `unsaved`, for who keeps it on disk."""

    def __init__(self, saved: Mapping[PeriodKey, Counts]) -> None:
        self._periods = {key: Period(key, counts) for key, counts in saved.items()}
        self._day = self._month = -1
        self._present: dict[str, tuple[Period, Period]] = {}  # by organisation, of this day
        self.unsaved: dict[PeriodKey, Counts] = {}

    def at(self, organisation: str, now_seconds: float) -> tuple[Period, Period]:
        """The day and the month that this time lies in."""
        day = utc_day(now_seconds)
        if day != self._day:
            self._day, self._month = day, utc_month(day)
            self._present.clear()
        both = self._present.get(organisation)
        if both is None:
            both = self._period((organisation, "day", day)), self._period((organisation, "month", self._month))
            self._present[organisation] = both
        return both

    def settle(self, period: Period, tokens: int, picousd: int) -> None:
        """Books one request with what it really used."""
        period.requests += 1
        period.tokens += tokens
        period.picousd += picousd
        self._note(period.key, 1, tokens, picousd)

    def put_back(self, counted: Mapping[PeriodKey, Counts]) -> None:
        """What could not be saved after all."""
        for key, counts in counted.items():
            self._note(key, *counts)

    def forget_before(self, now_seconds: float) -> None:
        """Drops what ended over a week or two months ago: a clock that jumps ahead and back finds its day again."""
        day = utc_day(now_seconds)
        oldest = {"day": day - 7, "month": utc_month(day) - 2}
        self._periods = {key: period for key, period in self._periods.items() if key[2] >= oldest[key[1]]}
        self._present.clear()

    def _note(self, key: PeriodKey, requests: int, tokens: int, picousd: int) -> None:
        noted = self.unsaved.get(key)
        if noted is not None:
            requests, tokens, picousd = noted[0] + requests, noted[1] + tokens, noted[2] + picousd
        self.unsaved[key] = (requests, tokens, picousd)

    def _period(self, key: PeriodKey) -> Period:
        period = self._periods.get(key)
        if period is None:
            period = self._periods[key] = Period(key)
        return period
