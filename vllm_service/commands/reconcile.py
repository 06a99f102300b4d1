"""`python -m vllm_service reconcile --bill FILE|URL --ledger FILE`: does the ledger agree with the bill, day by day?"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vllm_service.domain.accounting import Booking, book
from vllm_service.domain.money import to_usd
from vllm_service.domain.reconciliation import DayLine, per_day, ran_at, total
from vllm_service.domain.requests import RequestRecord
from vllm_service.errors import ConfigurationError
from vllm_service.providers.bill_source import read_bill
from vllm_service.providers.bills import Bill, parse_bill
from vllm_service.storage.ledger_csv import CsvLedger


def run(arguments: Sequence[str]) -> int:
    """0; 1 when the totals differ by more than --tolerance. Raises ConfigurationError."""
    options = _parser().parse_args(arguments)
    key = None if options.key_file is None else _key(options.key_file)
    bill = parse_bill(read_bill(options.bill, key), now_us=time.time_ns() // 1000, endpoint=options.endpoint)
    records = _records(CsvLedger(options.ledger), options.provider)
    lines = per_day(bill.lines, records)
    whole = total(lines)
    bookings = book(bill.workers, (ran_at("", record) for record in records))
    if options.json:
        sys.stdout.write(json.dumps(_document(lines, whole, bookings)) + "\n")
    else:
        _show(lines, whole, bookings, bill)
    off = whole.difference_percentage
    return int(options.tolerance is not None and (off is None or abs(off) > options.tolerance))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vllm_service reconcile", description=__doc__)
    parser.add_argument("--bill", required=True, metavar="FILE|URL", help="the emulator's or RunPod's; - is stdin")
    parser.add_argument("--ledger", required=True, type=Path, metavar="FILE", help="`ledger export`'s CSV, or .csv.gz")
    parser.add_argument("--provider", action="append", metavar="NAME", help="the ledger's name of what was billed")
    parser.add_argument("--endpoint", metavar="ID", help="only this endpoint's lines of the bill")
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="holds the API key of the billing API")
    parser.add_argument("--tolerance", type=float, metavar="PERCENT", help="exit 1 when the totals differ by more")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    return parser


def _key(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigurationError(f"--key-file: {error.strerror}: {path}") from None


def _records(ledger: CsvLedger, providers: Sequence[str] | None) -> list[RequestRecord]:
    """Those that were sent to what was billed; who names nothing must have a ledger of one provider."""
    sent = [record for record in ledger if record.provider is not None]
    if providers is not None:
        return [record for record in sent if record.provider in providers]
    names = sorted({record.provider for record in sent if record.provider is not None})
    if len(names) > 1:
        raise ConfigurationError(f"the ledger holds several providers: name what was billed with --provider: {names}")
    return sent


def _document(lines: Sequence[DayLine], whole: DayLine, bookings: Sequence[Booking]) -> dict[str, Any]:
    return {
        "days": [{"day": None if line.day is None else line.day.isoformat()} | _figures(line) for line in lines],
        "total": _figures(whole),
        "attribution": _attribution(bookings),
    }


def _figures(line: DayLine) -> dict[str, Any]:
    return {
        "billed_usd": _usd(line.billed_picousd),
        "booked_usd": _usd(line.booked_picousd),
        "difference_usd": _usd(line.difference_picousd),
        "difference_percentage": line.difference_percentage,
        "requests": line.requests,
        "unpriced_requests": line.unpriced_requests,
    }


def _attribution(bookings: Sequence[Booking]) -> dict[str, float] | None:
    """What the billed workers' seconds went into; None when the bill does not tell when they ran."""
    if not bookings:
        return None
    caused = [booking for booking in bookings if booking.request_id is not None]
    return {
        "execution_usd": to_usd(sum(booking.execution_picousd for booking in caused)),
        "cold_start_usd": to_usd(sum(booking.cold_start_picousd for booking in caused)),
        "idle_usd": to_usd(sum(booking.idle_picousd for booking in caused)),
        "nobody_usd": to_usd(sum(booking.total_picousd for booking in bookings if booking.request_id is None)),
    }


def _usd(picousd: int | None) -> float | None:
    return None if picousd is None else to_usd(picousd)


def _show(lines: Sequence[DayLine], whole: DayLine, bookings: Sequence[Booking], bill: Bill) -> None:
    table = Table(title="Ledger against bill, days in UTC", show_footer=True)
    names = ("day", "requests", "booked $", "billed $", "difference $", "%")
    for name, footer in zip(names, ("total", *_cells(whole)), strict=True):
        table.add_column(name, footer=footer, justify="left" if name == "day" else "right")
    for line in lines:
        table.add_row("undated" if line.day is None else line.day.isoformat(), *_cells(line))
    console = Console()
    console.print(table)
    if whole.unpriced_requests:
        console.print(f"{whole.unpriced_requests} requests have no known cost: they are not in the booked dollars.")
    if attribution := _attribution(bookings):
        shares = ", ".join(
            f"{name.removesuffix('_usd').replace('_', ' ')} ${usd:.6f}" for name, usd in attribution.items()
        )
        console.print(f"The bill's {len(bill.workers)} workers: {shares}.")


def _cells(line: DayLine) -> tuple[str, ...]:
    money = (line.booked_picousd, line.billed_picousd, line.difference_picousd)
    percentage = line.difference_percentage
    return (
        str(line.requests),
        *("?" if amount is None else f"{to_usd(amount):.6f}" for amount in money),
        "?" if percentage is None else f"{percentage:+.2f}",
    )
