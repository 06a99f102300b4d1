"""`ledger export|summary|prune`: the record of every request."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.table import Table

from vllm_service.cli.command import Command
from vllm_service.cli.exit_codes import WRONG_ARGUMENTS
from vllm_service.cli.storage_options import add_location, wide_console, with_database
from vllm_service.domain.money import to_usd
from vllm_service.domain.quotas import SECONDS_PER_DAY
from vllm_service.domain.timestamps import utc_seconds
from vllm_service.settings import ServiceSettings
from vllm_service.storage.ledger.export import FORMATS
from vllm_service.storage.ledger.reader import GroupBy, LedgerReader, Totals, Window
from vllm_service.storage.sql.database import Database


def run(options: argparse.Namespace) -> int:
    """0, or 1 for a database that does not answer; 2 for arguments that are wrong."""
    if options.command == "export" and options.format == "parquet" and options.output is None:
        sys.stderr.write("Parquet is binary: say where it goes with --output FILE\n")
        return WRONG_ARGUMENTS

    async def work(database: Database, settings: ServiceSettings) -> int:
        if options.command == "prune" and options.older_than_days is None:
            options.older_than_days = settings.ledger_retention_days
        return await _COMMANDS[options.command](LedgerReader(database), options)

    return with_database(options, work)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="command", required=True)
    export = commands.add_parser("export", help="every row, one line each; columns as in docs/ledger.md")
    export.add_argument("--format", choices=sorted(FORMATS), default="csv")
    export.add_argument("--output", type=Path, help="a file; CSV goes to standard output by default")
    summary = commands.add_parser("summary", help="totals as a table")
    summary.add_argument("--by", type=GroupBy, choices=list(GroupBy), nargs="+", default=[GroupBy.ORGANISATION])
    for command in (export, summary):
        command.add_argument("--since", type=_moment, metavar="YYYY-MM-DD[THH:MM]", help="UTC; from then on")
        command.add_argument("--until", type=_moment, metavar="YYYY-MM-DD[THH:MM]", help="UTC; until before then")
    prune = commands.add_parser("prune", help="delete old rows")
    prune.add_argument("--older-than-days", type=float, help="LEDGER_RETENTION_DAYS by default")
    for command in (export, summary, prune):
        add_location(command)


async def _export(reader: LedgerReader, options: argparse.Namespace) -> int:
    rows = await FORMATS[options.format](reader.records(_window(options)), options.output)
    sys.stderr.write(f"{rows:,} rows\n")
    return 0


async def _summary(reader: LedgerReader, options: argparse.Namespace) -> int:
    table = Table(*(group.value for group in options.by))
    for column in _SUMMARY:
        table.add_column(column, justify="right")
    for totals in await reader.totals(options.by, _window(options)):
        table.add_row(*_words(options.by, totals), *_figures(totals))
    console = wide_console()
    console.print(table)
    for warning in (*await reader.lost_writers(), *await reader.refusals()):
        console.print(f"Beware: {warning}.", style="yellow", markup=False)
    return 0


def _words(by: Sequence[GroupBy], totals: Totals) -> list[str]:
    return [
        datetime.fromtimestamp(int(value) * SECONDS_PER_DAY, UTC).strftime("%Y-%m-%d")
        if group is GroupBy.DAY and value is not None
        else str(value or "-")
        for group, value in zip(by, totals.group, strict=True)
    ]


def _figures(totals: Totals) -> list[str]:
    counts = (totals.requests, totals.completed, totals.failed, totals.prompt_tokens, totals.completion_tokens)
    saved = totals.baseline_picousd - totals.compared_cost_picousd
    dollars = (to_usd(totals.cost_picousd), to_usd(saved))
    return [
        *(f"{value:,}" for value in counts),
        *(f"{value:,.6f}" for value in dollars),
        f"{totals.unpriced_requests:,}",
    ]


async def _prune(reader: LedgerReader, options: argparse.Namespace) -> int:
    if options.older_than_days is None:
        sys.stderr.write("Say how old: --older-than-days N, or LEDGER_RETENTION_DAYS.\n")
        return WRONG_ARGUMENTS
    deleted = await reader.prune(time.time() - options.older_than_days * SECONDS_PER_DAY)
    sys.stderr.write(f"{deleted:,} rows deleted\n")
    return 0


def _window(options: argparse.Namespace) -> Window:
    return Window(options.since, options.until)


def _moment(text: str) -> float:
    try:
        return utc_seconds(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no date such as 2026-11-30 or 2026-11-30T12:00") from None


_SUMMARY = (
    "requests",
    "completed",
    "failed",
    "prompt tokens",
    "completion tokens",
    "cost USD",
    "saved USD",
    "unpriced",
)
_COMMANDS = {"export": _export, "summary": _summary, "prune": _prune}
COMMAND = Command("The record of every request.", _add_arguments, run)
