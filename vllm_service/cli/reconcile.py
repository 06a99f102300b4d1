"""`reconcile`: compares the ledger with a bill, day by day, and can book what was billed."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import date
from pathlib import Path

from msgspec.structs import replace

from vllm_service.accounting.bill_records import Bill
from vllm_service.accounting.reconciliation import DayLine, Reconciliation
from vllm_service.cli.argument_types import day
from vllm_service.cli.bill_booking import book, note_own_lines, require_bookable
from vllm_service.cli.bill_sources import KEY_VARIABLE, add_bills, bill_named
from vllm_service.cli.command import Command
from vllm_service.cli.reconcile_report import Report
from vllm_service.cli.storage_options import add_location, with_database
from vllm_service.domain.quotas import SECONDS_PER_DAY
from vllm_service.domain.timestamps import utc_seconds
from vllm_service.errors import ConfigurationError
from vllm_service.settings import ServiceSettings
from vllm_service.storage.ledger.csv import CsvLedger
from vllm_service.storage.ledger.lives import LONGEST_REQUEST_US
from vllm_service.storage.ledger.reader import LedgerReader, Window
from vllm_service.storage.sql.database import Database


def run(options: argparse.Namespace) -> int:
    """Returns 0, or 1 if the totals differ by more than --tolerance. Raises ConfigurationError."""
    key = ServiceSettings.from_environment().environment.get(KEY_VARIABLE)
    bill = bill_named(options, key)

    async def work(database: Database, settings: ServiceSettings) -> int:
        compared = await _read(database, bill, options)
        if options.book:
            await book(database, bill, compared, options.since, options.until)
            compared = await _read(database, bill, options)
        return _report(compared, bill, options)

    if options.book:
        require_bookable(bill)
    if options.ledger is None:
        return with_database(options, work, must_exist=True)
    if options.book:
        raise ConfigurationError("--book writes to the service's own ledger: leave out --ledger.")
    compared = Reconciliation(bill.lines, bill.workers, options.provider)
    for record in CsvLedger(options.ledger):
        compared.add(record)
    return _report(compared, bill, options)


async def _read(database: Database, bill: Bill, options: argparse.Namespace) -> Reconciliation:
    """Returns the comparison, with the rows' ids for requests' ids: callers may give two requests the same id."""
    compared = Reconciliation(bill.lines, bill.workers, options.provider)
    async for row_id, record in LedgerReader(database).records(_window(bill, options.since, options.until)):
        compared.add(replace(record, request_id=str(row_id)))
    _require_one_provider(compared, options)
    await note_own_lines(database, bill, compared, compared.billed_providers)
    return compared


def _require_one_provider(compared: Reconciliation, options: argparse.Namespace) -> None:
    """Raises ConfigurationError for a ledger of several providers if none was named."""
    if options.provider is None and len(compared.providers) > 1:
        names = sorted(compared.providers)
        raise ConfigurationError(f"the ledger holds several providers: name what was billed with --provider: {names}")


def _report(compared: Reconciliation, bill: Bill, options: argparse.Namespace) -> int:
    _require_one_provider(compared, options)
    lines = [line for line in compared.days() if _is_requested(line, options.since, options.until)]
    report = Report(lines, compared.bookings(), len(bill.workers))
    if options.json:
        sys.stdout.write(json.dumps(report.document()) + "\n")
    else:
        report.show()
    difference = report.whole.difference_percentage
    return int(options.tolerance is not None and (difference is None or abs(difference) > options.tolerance))


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_bills(parser)
    parser.add_argument(
        "--ledger", type=Path, metavar="FILE", help="an exported ledger, .csv or .csv.gz (default: the database)"
    )
    add_location(parser)
    parser.add_argument(
        "--provider",
        action="append",
        metavar="NAME",
        help="the billed provider, as the ledger names it; may be repeated",
    )
    parser.add_argument("--since", type=day, metavar="DAY", help="the first day, UTC: 2026-11-01")
    parser.add_argument("--until", type=day, metavar="DAY", help="the last day, UTC")
    parser.add_argument("--tolerance", type=float, metavar="PERCENT", help="exit with 1 if the totals differ by more")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    parser.add_argument(
        "--book",
        action="store_true",
        help="replace the estimated costs in the ledger by the billed ones; running it again changes nothing",
    )


def _window(bill: Bill, since: date | None, until: date | None) -> Window:
    """Returns the rows to read: those of the days, and those of requests that may have run on a billed worker."""
    first = [(worker.started_us - LONGEST_REQUEST_US) / 1_000_000 for worker in bill.workers]
    last = [worker.stopped_us / 1_000_000 for worker in bill.workers]
    return Window(
        None if since is None else min([_midnight(since), *first]),
        None if until is None else max([_midnight(until) + SECONDS_PER_DAY, *last]),
    )


def _midnight(day: date) -> float:
    return utc_seconds(day.isoformat())


def _is_requested(line: DayLine, since: date | None, until: date | None) -> bool:
    if line.day is None:
        return since is None and until is None
    return (since is None or line.day >= since) and (until is None or line.day <= until)


COMMAND = Command(
    "Compares the ledger with RunPod's bill, day by day, and shows what the billed seconds were used for.",
    _add_arguments,
    run,
)
