"""Compares the ledger with a bill, day by day (UTC). What one side lacks is None, and is not compared."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

from vllm_service.accounting.booking import Booking, RanRequest, WorkerBill, book, due
from vllm_service.domain.money import split
from vllm_service.domain.requests import RequestRecord

DAY_US = 86_400 * 1_000_000


@dataclass(frozen=True, slots=True)
class BilledAmount:
    """One line of a bill. A field is None where the bill lacks it."""

    picousd: int
    endpoint: str | None = None
    #: Microseconds since 1970, as ended_us.
    started_us: int | None = None
    ended_us: int | None = None

    def per_day(self) -> list[tuple[date | None, int]]:
        """Returns the amount, cut at midnight UTC by time; exact."""
        if self.started_us is None:
            return [(None, self.picousd)]
        end_us = max(self.ended_us or 0, self.started_us)
        cuts = [self.started_us, *range((self.started_us // DAY_US + 1) * DAY_US, end_us, DAY_US), end_us]
        lengths = [later - earlier for earlier, later in itertools.pairwise(cuts)]
        # An amount without any length belongs to the day on which it began.
        shares = split(self.picousd, lengths if any(lengths) else [1, *lengths[1:]])
        return [(_day(start), share) for start, share in zip(cuts, shares, strict=False)]


@dataclass(slots=True)
class DayLine:
    """One day's sums, UTC, by when requests began."""

    #: None: the bill lacks the time.
    day: date | None
    billed_picousd: int | None = None
    booked_picousd: int | None = None
    requests: int = 0
    #: Those of them whose cost is unknown (RequestRecord.is_unpriced); they are never taken for free.
    unpriced_requests: int = 0

    @property
    def difference_picousd(self) -> int | None:
        """The ledger's sum less the bill's; None where either is missing."""
        if self.billed_picousd is None or self.booked_picousd is None:
            return None
        return self.booked_picousd - self.billed_picousd

    @property
    def difference_percentage(self) -> float | None:
        """The difference as a percentage of the bill; None where nothing was billed."""
        difference = self.difference_picousd
        return None if difference is None or not self.billed_picousd else 100 * difference / self.billed_picousd

    def add(self, record: RequestRecord) -> None:
        """Adds one of the ledger's rows."""
        self.requests += 1
        self.unpriced_requests += record.is_unpriced
        if record.cost_picousd is not None:
            self.booked_picousd = (self.booked_picousd or 0) + record.cost_picousd


class Days:
    """A bill's lines and the ledger's rows, summed by day: memory does not grow with the ledger."""

    def __init__(self, bill: Iterable[BilledAmount]) -> None:
        self._lines: defaultdict[date | None, DayLine] = defaultdict(lambda: DayLine(None))
        for amount in bill:
            for day, picousd in amount.per_day():
                self._lines[day].billed_picousd = (self._lines[day].billed_picousd or 0) + picousd

    def add(self, record: RequestRecord) -> None:
        """Adds one of the ledger's rows."""
        self._lines[_day(round(record.started_at * 1_000_000))].add(record)

    def in_order(self) -> list[DayLine]:
        """Returns the days in order; what the bill does not date comes last."""
        for day, line in self._lines.items():
            line.day = day
        return sorted(self._lines.values(), key=lambda line: (line.day is None, line.day or date.min))


class Reconciliation:
    """A bill, and the ledger's rows of the billed providers; providers None: of all providers.

    Memory grows with the days, and with the requests that were under way while a billed worker ran.
    """

    def __init__(
        self, bill: Iterable[BilledAmount], workers: Sequence[WorkerBill], providers: Collection[str] | None
    ) -> None:
        self._days = Days(bill)
        self._workers = workers
        self._first_us = min((worker.started_us for worker in workers), default=0)
        self._last_us = max((worker.stopped_us for worker in workers), default=0)
        self._billed = providers
        self._ran: list[RanRequest] = []
        self.providers: set[str] = set()

    def add(self, record: RequestRecord) -> None:
        """Adds one of the ledger's rows, in any order."""
        if record.provider is None or (self._billed is not None and record.provider not in self._billed):
            return
        self.providers.add(record.provider)
        self._days.add(record)
        ran = ran_at("", record)
        if ran.started_us < self._last_us and ran.ended_us >= self._first_us:
            self._ran.append(ran)

    def days(self) -> list[DayLine]:
        """Returns the days as Days.in_order does."""
        return self._days.in_order()

    def bookings(self) -> list[Booking]:
        """Returns the billed workers' costs, booked to requests."""
        return book(self._workers, self._ran)

    def due(self) -> dict[str, int]:
        """Returns the pico-dollars that each request owes of the bill, by its id; see booking.due."""
        return due(self._workers, self._ran)


def total(lines: Iterable[DayLine]) -> DayLine:
    """Returns all days together, dated or not."""
    whole = DayLine(None)
    for line in lines:
        whole.requests += line.requests
        whole.unpriced_requests += line.unpriced_requests
        whole.billed_picousd = _sum(whole.billed_picousd, line.billed_picousd)
        whole.booked_picousd = _sum(whole.booked_picousd, line.booked_picousd)
    return whole


def ran_at(endpoint: str, record: RequestRecord) -> RanRequest:
    """Returns when a request of the ledger was at an endpoint, for booking.book."""
    started_us = round(record.started_at * 1_000_000)
    return RanRequest(record.request_id, endpoint, started_us, started_us + round((record.total_ms or 0) * 1000))


def _sum(known: int | None, more: int | None) -> int | None:
    return known if more is None else (known or 0) + more


def _day(microseconds: int) -> date:
    return datetime.fromtimestamp(microseconds // 1_000_000, UTC).date()
