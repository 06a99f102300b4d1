"""What `reconcile` prints: the ledger against the bill per day, as a table or as one JSON document."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from vllm_service.accounting.booking import Booking
from vllm_service.accounting.reconciliation import DayLine, total
from vllm_service.cli.storage_options import wide_console
from vllm_service.domain.bill import BillPart
from vllm_service.domain.money import PICOUSD_PER_USD, to_usd

#: Amounts of REST v2 are doubles: their sum may miss their total by less than this without being wrong.
ROUNDING_PICOUSD = PICOUSD_PER_USD // 10**6
#: The text of a column's cell, of one day or of all.
Cell = Callable[[DayLine], str]


class Report:
    """A comparison, ready to be printed. workers: how many workers the bill has with their times."""

    def __init__(self, lines: Sequence[DayLine], bookings: Sequence[Booking], workers: int) -> None:
        self.lines = lines
        self.whole = total(lines)
        self._bookings = bookings
        self._workers = workers

    def document(self) -> dict[str, Any]:
        """Returns the JSON document. Unknown is null."""
        return {
            "days": [
                {"day": None if line.day is None else line.day.isoformat()} | _figures(line) for line in self.lines
            ],
            "total": _figures(self.whole),
            "attribution": self._attribution(),
        }

    def show(self) -> None:
        """Prints the table, and below it what the figures do not say."""
        console = wide_console()
        for table in self._tables():
            console.print(table)
        for line in self.lines:
            if beyond := _beyond_parts_usd(line):
                console.print(f"{_name(line)}: the bill's total is ${beyond:+.6f} from the sum of its parts.")
        if self.whole.unpriced_requests:
            unpriced = self.whole.unpriced_requests
            console.print(f"{unpriced} requests have no known cost: they are not in the booked dollars.")
        if attribution := self._attribution():
            shares = ", ".join(
                f"{name.removesuffix('_usd').replace('_', ' ')} ${usd:.6f}" for name, usd in attribution.items()
            )
            console.print(f"The bill's {self._workers} workers: {shares}.")

    def _tables(self) -> Iterator[Table]:
        compared = {name: cell for name, cell in _COMPARED.items() if name not in _OWN_LINES or self._has_own_lines}
        yield _table("Ledger against bill, days in UTC", self.lines, self.whole, compared)
        if self.whole.billed.is_divided:
            yield _table("The bill's parts", self.lines, self.whole, _PARTS)

    @property
    def _has_own_lines(self) -> bool:
        return self.whole.nobody_picousd is not None or self.whole.unexplained_picousd is not None

    def _attribution(self) -> dict[str, float] | None:
        """Returns what the billed seconds were used for; None without the workers' times in the bill."""
        if not self._bookings:
            return None
        attributed = [booking for booking in self._bookings if booking.request_id is not None]
        uncaused = sum(booking.total_picousd for booking in self._bookings if booking.request_id is None)
        return {
            "execution_usd": to_usd(sum(booking.execution_picousd for booking in attributed)),
            "cold_start_usd": to_usd(sum(booking.cold_start_picousd for booking in attributed)),
            "idle_usd": to_usd(sum(booking.idle_picousd for booking in attributed)),
            "nobody_usd": to_usd(uncaused),
        }


def _name(line: DayLine) -> str:
    return "undated" if line.day is None else line.day.isoformat()


def _figures(line: DayLine) -> dict[str, Any]:
    billed = line.billed
    return {
        "billed_usd": to_usd(billed.total_picousd),
        **{f"{part}_usd": to_usd(billed.of(part)) for part in BillPart},
        "beyond_parts_usd": _beyond_parts_usd(line),
        "compute_usd": to_usd(billed.compute_picousd),
        "booked_usd": to_usd(line.booked_picousd),
        "nobody_usd": to_usd(line.nobody_picousd),
        "unexplained_usd": to_usd(line.unexplained_picousd),
        "difference_usd": to_usd(line.difference_picousd),
        "difference_percentage": line.difference_percentage,
        "requests": line.requests,
        "unpriced_requests": line.unpriced_requests,
    }


def _beyond_parts_usd(line: DayLine) -> float | None:
    """Returns what the bill's total is more than its parts, 0 within rounding; None where a part is unknown."""
    beyond = line.billed.beyond_parts_picousd
    return 0.0 if beyond is not None and abs(beyond) < ROUNDING_PICOUSD else to_usd(beyond)


def _percentage(line: DayLine) -> str:
    percentage = line.difference_percentage
    return "?" if percentage is None else f"{percentage:+.2f}"


def _part(part: BillPart) -> Cell:
    return lambda line: _dollars(line.billed.of(part))


def _dollars(picousd: int | None) -> str:
    return "?" if picousd is None else f"{to_usd(picousd):.6f}"


def _table(title: str, lines: Sequence[DayLine], whole: DayLine, columns: Mapping[str, Cell]) -> Table:
    table = Table(title=title, show_footer=True)
    table.add_column("day", footer="total")
    for name, cell in columns.items():
        table.add_column(name, footer=cell(whole), justify="right")
    for line in lines:
        table.add_row(_name(line), *(cell(line) for cell in columns.values()))
    return table


_COMPARED: Mapping[str, Cell] = {
    "requests": lambda line: str(line.requests),
    "booked $": lambda line: _dollars(line.booked_picousd),
    "no request $": lambda line: _dollars(line.nobody_picousd),
    "unexplained $": lambda line: _dollars(line.unexplained_picousd),
    "workers billed $": lambda line: _dollars(line.billed.compute_picousd),
    "difference $": lambda line: _dollars(line.difference_picousd),
    "%": _percentage,
}
_OWN_LINES = ("no request $", "unexplained $")
_PARTS: Mapping[str, Cell] = {
    "GPU $": _part(BillPart.GPU),
    "CPU $": _part(BillPart.CPU),
    "disk $": _part(BillPart.DISK),
    "fee $": _part(BillPart.FEE),
    "volume $": _part(BillPart.VOLUME),
    "billed $": lambda line: _dollars(line.billed.total_picousd),
}
