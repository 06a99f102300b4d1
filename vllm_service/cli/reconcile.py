"""`reconcile --bill FILE|URL`: does the ledger agree with the bill, day by day?"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from rich.console import Console
from rich.table import Table

from vllm_service.accounting.bills import Bill, parse_bill, read_bill
from vllm_service.accounting.booking import Booking
from vllm_service.accounting.reconciliation import DayLine, Reconciliation, total
from vllm_service.cli.command import Command
from vllm_service.cli.storage_options import add_location, with_database
from vllm_service.domain.money import to_usd
from vllm_service.domain.quotas import SECONDS_PER_DAY
from vllm_service.domain.timestamps import utc_seconds
from vllm_service.errors import ConfigurationError
from vllm_service.settings import ServiceSettings
from vllm_service.storage.ledger.costs import set_costs
from vllm_service.storage.ledger.csv import CsvLedger
from vllm_service.storage.ledger.reader import LedgerReader, Window
from vllm_service.storage.sql.database import Database

KEY_VARIABLE = "RUNPOD_API_KEY"
# RunPod lets a job wait and run for a day at most, unless its TTL is set (as of 2026-11).
LONGEST_REQUEST_SECONDS = SECONDS_PER_DAY


def run(options: argparse.Namespace) -> int:
    """0; 1 when the totals differ by more than --tolerance. Raises ConfigurationError."""
    key = ServiceSettings.from_environment().environment.get(KEY_VARIABLE)
    bill = parse_bill(read_bill(options.bill, key), now_us=time.time_ns() // 1000, endpoint=options.endpoint)

    async def work(database: Database, settings: ServiceSettings) -> int:
        compared = await _read(database, bill, options)
        if options.book:
            await set_costs(database, {int(row_id): picousd for row_id, picousd in compared.due().items()})
            compared = await _read(database, bill, options)
        return _report(compared, bill, options)

    if options.book and not bill.workers:
        raise ConfigurationError("the bill does not tell when workers ran, so nobody knows who caused what: not booked")
    if options.ledger is None:
        return with_database(options, work, must_exist=True)
    if options.book:
        raise ConfigurationError("--book writes into the service's own ledger: leave out --ledger")
    compared = Reconciliation(bill.lines, bill.workers, options.provider)
    for record in CsvLedger(options.ledger):
        compared.add(record)
    return _report(compared, bill, options)


async def _read(database: Database, bill: Bill, options: argparse.Namespace) -> Reconciliation:
    """Requests by their rows' ids: callers may give two the same one."""
    compared = Reconciliation(bill.lines, bill.workers, options.provider)
    async for row_id, record in LedgerReader(database).records(_window(bill, options.since, options.until)):
        compared.add(replace(record, request_id=str(row_id)))
    _require_one_provider(compared, options)
    return compared


def _require_one_provider(compared: Reconciliation, options: argparse.Namespace) -> None:
    """Who names no provider must have a ledger of one."""
    if options.provider is None and len(compared.providers) > 1:
        names = sorted(compared.providers)
        raise ConfigurationError(f"the ledger holds several providers: name what was billed with --provider: {names}")


def _report(compared: Reconciliation, bill: Bill, options: argparse.Namespace) -> int:
    _require_one_provider(compared, options)
    lines = [line for line in compared.days() if _is_asked_for(line, options.since, options.until)]
    whole, bookings = total(lines), compared.bookings()
    if options.json:
        sys.stdout.write(json.dumps(_document(lines, whole, bookings)) + "\n")
    else:
        _show(lines, whole, bookings, bill)
    off = whole.difference_percentage
    return int(options.tolerance is not None and (off is None or abs(off) > options.tolerance))


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bill",
        required=True,
        metavar="FILE|URL",
        help=f"the emulator's or RunPod's; - is stdin; a URL is asked with the key in {KEY_VARIABLE}, if it is set",
    )
    parser.add_argument(
        "--ledger", type=Path, metavar="FILE", help="an export, .csv or .csv.gz (default: the service's own database)"
    )
    add_location(parser)
    parser.add_argument("--provider", action="append", metavar="NAME", help="the ledger's name of what was billed")
    parser.add_argument("--endpoint", metavar="ID", help="only this endpoint's lines of the bill")
    parser.add_argument("--since", type=date.fromisoformat, metavar="DAY", help="the first day, UTC: 2026-11-01")
    parser.add_argument("--until", type=date.fromisoformat, metavar="DAY", help="the last day, UTC")
    parser.add_argument("--tolerance", type=float, metavar="PERCENT", help="exit 1 when the totals differ by more")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument(
        "--book",
        action="store_true",
        help="put what was billed into the ledger, in place of what its rows were expected to cost; may be repeated",
    )


def _window(bill: Bill, since: date | None, until: date | None) -> Window:
    """The rows to read: of the days asked for, and of whoever may have been at a billed worker."""
    first = [worker.started_us / 1_000_000 - LONGEST_REQUEST_SECONDS for worker in bill.workers]
    last = [worker.stopped_us / 1_000_000 for worker in bill.workers]
    return Window(
        None if since is None else min([_midnight(since), *first]),
        None if until is None else max([_midnight(until) + SECONDS_PER_DAY, *last]),
    )


def _midnight(day: date) -> float:
    return utc_seconds(day.isoformat())


def _is_asked_for(line: DayLine, since: date | None, until: date | None) -> bool:
    if line.day is None:
        return since is None and until is None
    return (since is None or line.day >= since) and (until is None or line.day <= until)


def _document(lines: Sequence[DayLine], whole: DayLine, bookings: Sequence[Booking]) -> dict[str, Any]:
    return {
        "days": [{"day": None if line.day is None else line.day.isoformat()} | _figures(line) for line in lines],
        "total": _figures(whole),
        "attribution": _attribution(bookings),
    }


def _figures(line: DayLine) -> dict[str, Any]:
    return {
        "billed_usd": to_usd(line.billed_picousd),
        "booked_usd": to_usd(line.booked_picousd),
        "difference_usd": to_usd(line.difference_picousd),
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


COMMAND = Command("Does the ledger agree with the bill, day by day?", _add_arguments, run)
