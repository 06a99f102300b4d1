"""Compares the ledger with a bill, day by day (UTC). What one side lacks is None, and is not compared."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date

from vllm_service.accounting.booking import Booking, RanRequest, WorkerBill, book, due
from vllm_service.domain.bill import BilledAmount, BilledParts, parts_per_day, plus, utc_day
from vllm_service.domain.cost_basis import CostParts
from vllm_service.domain.requests import RequestRecord


@dataclass(slots=True)
class DayLine:
    """One day's sums, UTC, by when requests began."""

    #: None: the bill lacks the time.
    day: date | None
    billed: BilledParts = field(default_factory=BilledParts)
    booked_picousd: int | None = None
    requests: int = 0
    #: Those of them whose cost is unknown (RequestRecord.is_unpriced); they are never taken for free.
    unpriced_requests: int = 0
    #: The ledger's lines for workers' seconds that are no request's: what none caused, and what the bill is more than
    #: was seen. None: there is no such line.
    nobody_picousd: int | None = None
    unexplained_picousd: int | None = None

    @property
    def difference_picousd(self) -> int | None:
        """The ledger's sum less what was billed for workers' seconds; None where either is missing."""
        compute = self.billed.compute_picousd
        ledger = plus(plus(self.booked_picousd, self.nobody_picousd), self.unexplained_picousd)
        return None if compute is None or ledger is None else ledger - compute

    @property
    def difference_percentage(self) -> float | None:
        """The difference as a percentage of what was billed for workers' seconds; None where that is nothing."""
        difference = self.difference_picousd
        compute = self.billed.compute_picousd
        return None if difference is None or not compute else 100 * difference / compute

    def add(self, record: RequestRecord) -> None:
        """Adds one of the ledger's rows."""
        self.requests += 1
        self.unpriced_requests += record.is_unpriced
        self.booked_picousd = plus(self.booked_picousd, record.cost_picousd)


class Days:
    """A bill's lines and the ledger's rows, summed by day: memory does not grow with the ledger."""

    def __init__(self, bill: Iterable[BilledAmount]) -> None:
        self._lines = {day: DayLine(day, billed) for day, billed in parts_per_day(bill).items()}

    def add(self, record: RequestRecord) -> None:
        """Adds one of the ledger's rows."""
        day = utc_day(round(record.started_at * 1_000_000))
        if day not in self._lines:
            self._lines[day] = DayLine(day)
        self._lines[day].add(record)

    def note(self, day: date, nobody_picousd: int, unexplained_picousd: int | None) -> None:
        """Sets the ledger's lines of a day that are no request's."""
        line = self._lines.setdefault(day, DayLine(day))
        line.nobody_picousd = nobody_picousd
        line.unexplained_picousd = unexplained_picousd

    def in_order(self) -> list[DayLine]:
        """Returns the days in order; what the bill does not date comes last."""
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

    @property
    def billed_providers(self) -> Collection[str]:
        """The providers that were named as billed; else those of the rows."""
        return self.providers if self._billed is None else self._billed

    def note(self, day: date, nobody_picousd: int, unexplained_picousd: int | None) -> None:
        """Sets the ledger's lines of a day that are no request's. A bill with workers' times says it by itself."""
        if not self._workers:
            self._days.note(day, nobody_picousd, unexplained_picousd)

    def days(self) -> list[DayLine]:
        """Returns the days as Days.in_order does."""
        return self._days.in_order()

    def bookings(self) -> list[Booking]:
        """Returns the billed workers' costs, booked to requests."""
        return book(self._workers, self._ran)

    def due(self) -> dict[str, CostParts]:
        """Returns what each request owes of the bill, by its id; see booking.due."""
        return due(self._workers, self._ran)


def total(lines: Iterable[DayLine]) -> DayLine:
    """Returns all days together, dated or not."""
    whole = DayLine(None)
    for line in lines:
        whole.requests += line.requests
        whole.unpriced_requests += line.unpriced_requests
        whole.billed.merge(line.billed)
        whole.booked_picousd = plus(whole.booked_picousd, line.booked_picousd)
        whole.nobody_picousd = plus(whole.nobody_picousd, line.nobody_picousd)
        whole.unexplained_picousd = plus(whole.unexplained_picousd, line.unexplained_picousd)
    return whole


def ran_at(endpoint: str, record: RequestRecord) -> RanRequest:
    """Returns when a request of the ledger was at an endpoint, for booking.book."""
    started_us = round(record.started_at * 1_000_000)
    return RanRequest(record.request_id, endpoint, started_us, started_us + round((record.total_ms or 0) * 1000))
