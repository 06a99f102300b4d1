"""`python -m vllm_service reconcile --bill FILE|URL`: does the ledger agree with the bill, day by day?"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import date
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from rich.console import Console
from rich.table import Table

from vllm_service.domain.accounting import Booking, book, due
from vllm_service.domain.money import to_usd
from vllm_service.domain.reconciliation import DayLine, LedgerRows, per_day, ran_at, total
from vllm_service.domain.requests import RequestRecord
from vllm_service.errors import ConfigurationError, StorageUnavailable
from vllm_service.providers.bill_source import read_bill
from vllm_service.providers.bills import Bill, parse_bill
from vllm_service.settings import ServiceSettings
from vllm_service.storage.database import Database
from vllm_service.storage.ledger_costs import set_costs
from vllm_service.storage.ledger_csv import CsvLedger
from vllm_service.storage.ledger_reader import LedgerReader
from vllm_service.storage.open import DATABASE_FILE, open_database

KEY_VARIABLE = "RUNPOD_API_KEY"


def run(arguments: Sequence[str]) -> int:
    """0; 1 when the totals differ by more than --tolerance. Raises ConfigurationError."""
    options = _parser().parse_args(arguments)
    settings = ServiceSettings.from_environment()
    text = read_bill(options.bill, settings.environment.get(KEY_VARIABLE))
    bill = parse_bill(text, now_us=time.time_ns() // 1000, endpoint=options.endpoint)
    if options.book:
        if options.ledger is not None:
            raise ConfigurationError("--book writes into the service's own ledger: leave out --ledger")
        asyncio.run(_book(settings, bill, options.provider))
    records = _sent(_ledger(options.ledger, settings), options.provider)
    lines = [line for line in per_day(bill.lines, records) if _is_asked_for(line, options.since, options.until)]
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
    parser.add_argument(
        "--bill",
        required=True,
        metavar="FILE|URL",
        help=f"the emulator's or RunPod's; - is stdin; a URL is asked with the key in {KEY_VARIABLE}, if it is set",
    )
    parser.add_argument(
        "--ledger", type=Path, metavar="FILE", help="an export, .csv or .csv.gz (default: the service's own database)"
    )
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
    return parser


def _ledger(export: Path | None, settings: ServiceSettings) -> LedgerRows:
    return asyncio.run(_rows_of_database(settings)) if export is None else CsvLedger(export)


async def _rows_of_database(settings: ServiceSettings) -> list[RequestRecord]:
    async with _opened(settings) as database:
        return [record async for _, record in LedgerReader(database).records()]


async def _book(settings: ServiceSettings, bill: Bill, providers: Sequence[str] | None) -> None:
    """By the rows' ids: callers may give two requests the same one."""
    if not bill.workers:
        raise ConfigurationError("the bill does not tell when workers ran, so nobody knows who caused what: not booked")
    async with _opened(settings) as database:
        rows = [row async for row in LedgerReader(database).records()]
        by_row = (replace(record, request_id=str(row)) for row, record in rows)
        costs = due(bill.workers, [ran_at("", record) for record in _sent(list(by_row), providers)])
        await set_costs(database, {int(row): picousd for row, picousd in costs.items()})


@asynccontextmanager
async def _opened(settings: ServiceSettings) -> AsyncIterator[Database]:
    if settings.database_url is None and not (settings.data_dir / DATABASE_FILE).exists():
        raise ConfigurationError(
            f"there is no ledger in {settings.data_dir}: set DATA_DIR or DATABASE_URL, or --ledger"
        )
    database = await open_database(settings.database_url, settings.data_dir)
    try:
        yield database
    except StorageUnavailable as error:
        raise ConfigurationError(error.message) from None
    finally:
        await database.close()


def _sent(ledger: Iterable[RequestRecord], providers: Sequence[str] | None) -> list[RequestRecord]:
    """Those that were sent to what was billed; who names nothing must have a ledger of one provider."""
    sent = [record for record in ledger if record.provider is not None]
    if providers is not None:
        return [record for record in sent if record.provider in providers]
    names = sorted({record.provider for record in sent if record.provider is not None})
    if len(names) > 1:
        raise ConfigurationError(f"the ledger holds several providers: name what was billed with --provider: {names}")
    return sent


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
