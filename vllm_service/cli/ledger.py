"""`ledger export|summary|prune`: reads and prunes the record of every request."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from vllm_service.cli.argument_types import instant, one_of, positive
from vllm_service.cli.command import Command
from vllm_service.cli.exit_codes import WRONG_ARGUMENTS
from vllm_service.cli.json_option import add_json, write_json
from vllm_service.cli.spend_lines import spend_document, spend_lines
from vllm_service.cli.storage_options import add_location, wide_console, with_database
from vllm_service.domain.money import to_usd
from vllm_service.domain.quotas import SECONDS_PER_DAY
from vllm_service.errors import ConfigurationError
from vllm_service.settings import ServiceSettings
from vllm_service.storage.ledger.export import FORMATS
from vllm_service.storage.ledger.reader import GroupBy, LedgerReader, Totals, Window
from vllm_service.storage.sql.database import Database


def run(options: argparse.Namespace) -> int:
    """Returns 0, 1 for a database that cannot be used, 2 for wrong arguments."""
    if options.command == "export" and options.format == "parquet" and options.output is None:
        sys.stderr.write("Parquet is binary: name a file with --output FILE\n")
        return WRONG_ARGUMENTS

    async def work(database: Database, settings: ServiceSettings) -> int:
        if options.command == "prune" and options.older_than_days is None:
            options.older_than_days = settings.ledger_retention_days
        return await _COMMANDS[options.command](LedgerReader(database), options)

    return with_database(options, work, must_exist=True)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(title="actions", dest="command", metavar="ACTION", required=True)
    export = commands.add_parser("export", help="write every row, with the columns of docs/ledger.md")
    export.add_argument(
        "--format",
        type=one_of(sorted(FORMATS)),
        choices=sorted(FORMATS),
        default="csv",
        metavar="FORMAT",
        help="csv or parquet (default: csv)",
    )
    export.add_argument("--output", type=Path, metavar="FILE", help="where to write (CSV's default: standard output)")
    summary = commands.add_parser("summary", help="print totals as a table")
    summary.add_argument(
        "--by",
        type=one_of(group.value for group in GroupBy),
        choices=[group.value for group in GroupBy],
        nargs="+",
        default=[GroupBy.ORGANISATION.value],
        metavar="COLUMN",
        help=f"group by some of {', '.join(GroupBy)} (default: organisation)",
    )
    for command in (export, summary):
        command.add_argument("--since", type=instant, metavar="TIME", help="from then on, UTC: 2026-11-30[T12:00]")
        command.add_argument("--until", type=instant, metavar="TIME", help="until before then, UTC")
    prune = commands.add_parser("prune", help="delete old rows")
    prune.add_argument(
        "--older-than-days",
        type=positive,
        metavar="N",
        help="delete rows of older requests (default: LEDGER_RETENTION_DAYS)",
    )
    for command in (export, summary, prune):
        add_location(command)
    add_json(summary)


async def _export(reader: LedgerReader, options: argparse.Namespace) -> int:
    try:
        rows = await FORMATS[options.format](reader.records(_window(options)), options.output)
    except OSError as error:
        if options.output is None:
            # Standard output: `main` handles a reader that has ended.
            raise
        raise ConfigurationError(
            f"{options.output}: cannot be written: {error.strerror}; name another --output."
        ) from None
    sys.stderr.write(f"{rows:,} rows\n")
    return 0


async def _summary(reader: LedgerReader, options: argparse.Namespace) -> int:
    by = [GroupBy(name) for name in options.by]
    if options.json:
        write_json(await _document(reader, by, _window(options)))
        return 0
    table = Table(*options.by)
    for column in _SUMMARY:
        table.add_column(column, justify="right")
    for totals in await reader.totals(by, _window(options)):
        table.add_row(*_words(by, totals), *_figures(totals))
    console = wide_console()
    console.print(table)
    for line in spend_lines(await reader.spend(_window(options))):
        console.print(line, markup=False)
    for warning in (*await reader.lost_writers(), *await reader.refusals()):
        console.print(f"Warning: {warning}.", style="yellow", markup=False)
    return 0


async def _document(reader: LedgerReader, by: Sequence[GroupBy], window: Window) -> dict[str, Any]:
    groups = [
        dict(zip(by, _group(by, totals), strict=True)) | _totals_document(totals)
        for totals in await reader.totals(by, window)
    ]
    return {
        "groups": groups,
        "spend": spend_document(await reader.spend(window)),
        "warnings": [str(one) for one in (*await reader.lost_writers(), *await reader.refusals())],
    }


def _totals_document(totals: Totals) -> dict[str, Any]:
    """Returns all sums. The pico-dollars are exact, the dollars are for people."""
    sums = {field.name: getattr(totals, field.name) for field in dataclasses.fields(totals) if field.name != "group"}
    saved = totals.baseline_picousd - totals.compared_cost_picousd
    return sums | {"cost_usd": to_usd(totals.cost_picousd), "saved_usd": to_usd(saved)}


def _words(by: Sequence[GroupBy], totals: Totals) -> list[str]:
    return ["-" if value in (None, "") else str(value) for value in _group(by, totals)]


def _group(by: Sequence[GroupBy], totals: Totals) -> list[str | int | None]:
    """Returns the group's values, with a day as its date."""
    return [
        datetime.fromtimestamp(int(value) * SECONDS_PER_DAY, UTC).strftime("%Y-%m-%d")
        if group is GroupBy.DAY and value is not None
        else value
        for group, value in zip(by, totals.group, strict=True)
    ]


def _figures(totals: Totals) -> list[str]:
    counts = (totals.requests, totals.completed, totals.failed, totals.prompt_tokens, totals.completion_tokens)
    saved = totals.baseline_picousd - totals.compared_cost_picousd
    return [
        *(f"{value:,}" for value in counts),
        f"{to_usd(totals.cost_picousd):,.6f}",
        _bases(totals),
        f"{to_usd(saved):,.6f}",
        f"{totals.unpriced_requests:,}",
    ]


def _bases(totals: Totals) -> str:
    """Returns what the cost rests on: `billed`, or shares such as `billed 80 %, expected 20 %`."""
    parts = {
        "billed": totals.billed_cost_picousd,
        "booked": totals.booked_cost_picousd,
        "expected": totals.expected_cost_picousd,
    }
    parts["of old rows"] = totals.cost_picousd - sum(parts.values())
    known = {name: picousd for name, picousd in parts.items() if picousd}
    if len(known) < 2:
        return next(iter(known), "-")
    return ", ".join(f"{name} {100 * picousd / totals.cost_picousd:.0f} %" for name, picousd in known.items())


async def _prune(reader: LedgerReader, options: argparse.Namespace) -> int:
    if options.older_than_days is None:
        sys.stderr.write(
            "The age of the rows to delete is missing: give --older-than-days N, or set LEDGER_RETENTION_DAYS.\n"
        )
        return WRONG_ARGUMENTS
    deleted = await reader.prune(time.time() - options.older_than_days * SECONDS_PER_DAY)
    sys.stderr.write(f"{deleted:,} rows deleted\n")
    return 0


def _window(options: argparse.Namespace) -> Window:
    return Window(options.since, options.until)


_SUMMARY = (
    "requests",
    "completed",
    "failed",
    "prompt tokens",
    "completion tokens",
    "cost USD",
    "of it",
    "saved USD",
    "unpriced",
)
_COMMANDS = {"export": _export, "summary": _summary, "prune": _prune}
COMMAND = Command("Exports, sums up or prunes the ledger, the record of every request.", _add_arguments, run)
