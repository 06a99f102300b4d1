"""Validates the configuration: is it right, which providers answer, which models and prices are there?"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sys

from rich.console import Console
from rich.table import Table

from vllm_service.catalog.load import Loaded, read
from vllm_service.catalog.tasks import PREFIX, tasks_of
from vllm_service.cli.command import Command
from vllm_service.cli.provider_checks import TIMEOUT_SECONDS, Report, check
from vllm_service.settings import ServiceSettings


def run(options: argparse.Namespace, settings: ServiceSettings | None = None) -> int:
    """0 when at least one provider answers, 1 when none does. Raises ConfigurationError for files that are wrong."""
    loaded = read(settings or ServiceSettings.from_environment())
    reports = [] if options.offline else asyncio.run(check(loaded.catalog, options.timeout))
    if options.json:
        sys.stdout.write(json.dumps(to_json(loaded, reports), indent=2) + "\n")
    else:
        show(loaded, reports, Console())
    return 0 if options.offline or any(report.reachable for report in reports) else 1


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    parser.add_argument("--offline", action="store_true", help="read the files only, send nothing")
    parser.add_argument("--timeout", type=float, default=TIMEOUT_SECONDS, metavar="SECONDS", help="(default: 5)")


def to_json(loaded: Loaded, reports: list[Report]) -> dict[str, object]:
    """`{"models": [...], "tasks": {task: model}, "providers": [Report], "warnings": [...]}`."""
    return {
        "models": _models(loaded),
        "tasks": tasks_of(loaded.catalog.models),
        "providers": [dataclasses.asdict(report) for report in reports],
        "warnings": list(loaded.warnings),
    }


def show(loaded: Loaded, reports: list[Report], console: Console) -> None:
    """A line per provider, and what stays unknown."""
    console.print(f"Models: {', '.join(_models(loaded))}", markup=False, highlight=False)
    if tasks := tasks_of(loaded.catalog.models):
        answered = ", ".join(f"{task} by {model}" for task, model in sorted(tasks.items()))
        console.print(f"Tasks: {answered}", markup=False, highlight=False)
    if reports:
        table = Table("provider", "reachable", "latency", "models", "prices")
        for report in reports:
            table.add_row(*_row(report))
        console.print(table)
    for warning in loaded.warnings:
        console.print(f"warning: {warning}", markup=False, style="yellow", soft_wrap=True)


def _models(loaded: Loaded) -> list[str]:
    return sorted(name for name in loaded.catalog.models if not name.startswith(PREFIX))


def _row(report: Report) -> tuple[str, str, str, str, str]:
    latency = "-" if report.latency_ms is None else f"{report.latency_ms:.0f} ms"
    reachable = "yes" if report.reachable else f"no: {report.problem}"
    models = [f"{len(report.models_found)} found"] if report.models_found else []
    models += [f"missing: {name}" for name in report.models_missing]
    if report.workers is not None:
        counted = ", ".join(f"{count} {state}" for state, count in report.workers.items() if count)
        models = [f"workers: {counted or 'none'}"]
    prices = [f"{len(report.prices_known)} known"] if report.prices_known else []
    prices += [f"unknown: {name}" for name in report.prices_unknown]
    return report.provider, reachable, latency, "\n".join(models) or "-", "\n".join(prices) or "-"


COMMAND = Command(
    "Validates the configuration: is it right, which providers answer, which models and prices are there?",
    _add_arguments,
    run,
)
