"""What one process has counted for organisations, by UTC day and month."""

from __future__ import annotations

from collections.abc import Mapping

from vllm_service.domain.quotas import SECONDS_PER_DAY, utc_day, utc_month

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
