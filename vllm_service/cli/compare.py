"""`compare`: what a month of tokens costs at each provider, as a table or as JSON."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from vllm_service.catalog.load import read
from vllm_service.cli.argument_types import share
from vllm_service.cli.command import Command
from vllm_service.cli.storage_options import add_location, with_database
from vllm_service.client.compare import (
    DOCUMENTED_EXAMPLE,
    CostComparison,
    CostRow,
    Measurement,
    Offering,
    compare_costs,
    offerings_of,
    with_measurements,
)
from vllm_service.domain.money import to_usd
from vllm_service.domain.quotas import SECONDS_PER_DAY
from vllm_service.domain.requests import Outcome, RequestRecord
from vllm_service.settings import CatalogSettings, ServiceSettings
from vllm_service.storage.ledger.reader import LedgerReader, Window
from vllm_service.storage.sql.database import Database

#: Suffixes of numbers of tokens.
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}
MILLION = 10**6


def run(options: argparse.Namespace) -> int:
    """Prints the comparison; returns 0. Raises ServiceError."""
    offerings = DOCUMENTED_EXAMPLE if options.example else _offerings(options.model)
    if not options.measured:
        return _compare(offerings, options)

    async def compare_measured(database: Database, settings: ServiceSettings) -> int:
        return _compare(with_measurements(offerings, await _measurements(LedgerReader(database))), options)

    return with_database(options, compare_measured, must_exist=True)


def _compare(offerings: Sequence[Offering], options: argparse.Namespace) -> int:
    comparison = compare_costs(
        offerings,
        monthly_tokens=options.monthly_tokens,
        output_share=options.output_share,
        baseline=options.baseline,
    )
    if options.json:
        sys.stdout.write(json.dumps(comparison.to_json(), indent=2) + "\n")
    else:
        _print(comparison)
    return 0


async def _measurements(ledger: LedgerReader) -> list[Measurement]:
    """Returns the latency and tokens of the requests that were completed in the last week."""
    week = Window(since=time.time() - 7 * SECONDS_PER_DAY)
    return [
        Measurement(
            record.provider,
            record.upstream_model,
            record.total_ms,
            _completion_tokens(record),
            record.usage,
            record.cost_picousd,
            record.cost_basis,
        )
        async for _, record in ledger.records(week)
        if record.outcome is Outcome.COMPLETED and record.provider and record.upstream_model and record.total_ms
    ]


def _completion_tokens(record: RequestRecord) -> int | None:
    return None if record.usage is None else record.usage.completion_tokens


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--example", action="store_true", help="use the documentation's figures instead of your configuration"
    )
    parser.add_argument("--model", help="compare one model of models.yaml (default: all)")
    parser.add_argument(
        "--monthly-tokens",
        type=_tokens,
        default=10 * MILLION,
        metavar="N",
        help="tokens of a month, such as 500k (default: 10M)",
    )
    parser.add_argument(
        "--output-share",
        type=share,
        default=0.5,
        metavar="SHARE",
        help="generated tokens among them, from 0 to 1 (default: 0.5)",
    )
    parser.add_argument(
        "--baseline", metavar="PROVIDER", help="count savings against this provider (default: the most expensive)"
    )
    parser.add_argument(
        "--measured", action="store_true", help="add latency and tokens/s from the last week of the ledger"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    add_location(parser)


def _offerings(model: str | None) -> Sequence[Offering]:
    """Returns the offers of the model, or of all models, from providers.yaml and models.yaml."""
    catalog = read(CatalogSettings.from_environment()).catalog
    names = [model] if model is not None else sorted({public.name for public in catalog.models.values()})
    return [offering for name in names for offering in offerings_of(catalog, name)]


def _tokens(text: str) -> int:
    match = re.fullmatch(r"(\d+)([kmgb]?)", text.strip().lower().replace("_", ""))
    if match is None:
        raise argparse.ArgumentTypeError(f"expected tokens such as 500k or 10M, got {text!r}")
    return int(match[1]) * UNITS[match[2]]


def _print(comparison: CostComparison) -> None:
    tokens = f"{comparison.input_tokens:,} in + {comparison.output_tokens:,} out"
    table = Table(title=f"A month of {tokens} tokens, expected; savings against {comparison.baseline or 'no provider'}")
    table.add_column("provider")
    table.add_column("model")
    for name in ("$/M in", "$/M out", "latency ms", "tokens/s", "$ a month", "saved $", "saved %"):
        table.add_column(name, justify="right")
    for row in comparison.rows:
        table.add_row(row.offering.provider, row.offering.model, *_cells(row))
    console = Console(width=max(120, Console().width))
    console.print(table)
    for source in sorted({row.offering.source for row in comparison.rows if row.offering.source}):
        console.print(f"Figures: {source}.")


def _cells(row: CostRow) -> list[str]:
    price = row.offering.price
    about = "~" if row.offering.is_estimate else ""
    return [
        about + _number(None if price is None else price.input_usd_per_million, 4),
        about + _number(None if price is None else price.output_usd_per_million, 4),
        _number(row.offering.latency_ms, 0),
        _number(row.offering.tokens_per_second, 1),
        about + _number(to_usd(row.monthly_picousd), 2),
        _number(to_usd(row.savings_picousd), 2),
        _number(row.savings_percentage, 1),
    ]


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


COMMAND = Command("Compares what a month of tokens costs at each configured provider.", _add_arguments, run)
