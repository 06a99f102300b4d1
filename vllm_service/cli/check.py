"""`check`: validates the configuration, and finds out whether every provider answers and has its configured models."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2
from rich.console import Console
from rich.table import Table

from vllm_service.catalog.load import Loaded
from vllm_service.catalog.model import Catalog, Offer, Provider, ProviderKind
from vllm_service.catalog.tasks import PREFIX, tasks_of
from vllm_service.cli.argument_types import positive
from vllm_service.cli.check_bounds import BoundsFound, find_bounds
from vllm_service.cli.command import Command
from vllm_service.cli.configuration import validated
from vllm_service.errors import UpstreamFailed
from vllm_service.runpod.command_http import open_send
from vllm_service.runpod.health import health_of

TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Report:
    """The result of checking one provider."""

    provider: str
    kind: str
    #: The URL that was requested.
    url: str
    reachable: bool
    #: Of the answer, an error included; None without one.
    latency_ms: float | None = None
    #: Why the provider counts as unreachable, without secrets.
    problem: str | None = None
    #: Of the configured models. Both are empty for RunPod, where a request for its models would wake a worker.
    models_found: tuple[str, ...] = ()
    models_missing: tuple[str, ...] = ()
    #: Configured models with and without a price. RunPod's have one by the second.
    prices_known: tuple[str, ...] = ()
    prices_unknown: tuple[str, ...] = ()
    #: RunPod's worker counts by state; None for hosted providers.
    workers: dict[str, int] | None = None
    #: How many workers RunPod lets the endpoint have; None for hosted providers, and where it cannot be read.
    workers_max: int | None = None
    #: Why RunPod seems to have lowered that number by itself, and the remedy.
    scaled_down: str | None = None
    #: Why the number could not be read. The endpoint may answer all the same.
    management_problem: str | None = None


async def check(catalog: Catalog, timeout_seconds: float = TIMEOUT_SECONDS) -> list[Report]:
    """Returns a report on each provider, in configured order. Raises nothing."""
    providers = catalog.providers.values()
    async with httpx2.AsyncClient(timeout=timeout_seconds, follow_redirects=False) as client, open_send() as send:
        found = asyncio.gather(*(find_bounds(provider, send, timeout_seconds) for provider in providers))
        reports = await asyncio.gather(
            *(probe(client, provider, offers_of(catalog, provider)) for provider in providers)
        )
        bounds = await found
    return [_with_bounds(report, of_one) for report, of_one in zip(reports, bounds, strict=True)]


def _with_bounds(report: Report, found: BoundsFound) -> Report:
    return dataclasses.replace(
        report,
        workers_max=found.workers_max,
        scaled_down=found.scaled_down,
        management_problem=found.problem,
    )


def offers_of(catalog: Catalog, provider: Provider) -> list[Offer]:
    """Returns what the provider is configured to serve, each model once."""
    offers = (offer for model in catalog.models.values() for offer in model.offers if offer.provider == provider.name)
    return list({offer.model: offer for offer in offers}.values())


async def probe(client: httpx2.AsyncClient, provider: Provider, offers: list[Offer]) -> Report:
    """Sends one GET, for a hosted provider's models or RunPod's /health, which wakes no worker; returns the report."""
    is_runpod = provider.kind is ProviderKind.RUNPOD
    url = f"{provider.control_url}/health" if is_runpod else f"{provider.base_url}/models"
    headers = {} if provider.api_key is None else {"Authorization": f"Bearer {provider.api_key}"}
    priced = tuple(offer.model for offer in offers if offer.price is not None or provider.second_price is not None)
    facts: dict[str, Any] = {
        "provider": provider.name,
        "kind": provider.kind.value,
        "url": url,
        "prices_known": priced,
        "prices_unknown": tuple(offer.model for offer in offers if offer.model not in priced),
    }
    start = time.perf_counter()
    try:
        response = await client.get(url, headers=headers)
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, OverflowError) as error:
        return Report(**facts, reachable=False, problem=f"no answer: {_reason(error)}")
    facts["latency_ms"] = round((time.perf_counter() - start) * 1000, 1)
    try:
        document = _document(response, provider)
        found = {"workers": _workers(document)} if is_runpod else _models(document, offers)
    except UpstreamFailed as error:
        return Report(**facts, reachable=False, problem=error.message)
    return Report(**facts, **found, reachable=True)


def _reason(error: Exception) -> str:
    """Returns the reason in plain words, with the library's error class."""
    words = "the URL cannot be used"
    if isinstance(error, httpx2.TimeoutException):
        words = "it took too long (see --timeout)"
    elif isinstance(error, httpx2.ConnectError):
        words = "nothing listens there, or the host name or certificate is wrong"
    elif isinstance(error, httpx2.TransportError):
        words = "the connection broke"
    return f"{words} ({type(error).__name__})"


def _document(response: httpx2.Response, provider: Provider) -> dict[str, Any] | list[Any]:
    if response.status_code in (401, 403):
        hint = "its key was refused" if provider.api_key else "it requires a key: set api_key_env"
        raise UpstreamFailed(f"HTTP {response.status_code}: {hint}")
    if response.status_code == 404:
        raise UpstreamFailed("HTTP 404: the endpoint_id or base_url is wrong (a base_url ends with /v1)")
    if response.status_code != 200:
        raise UpstreamFailed(f"HTTP {response.status_code}")
    try:
        document = response.json()
    except ValueError:
        document = None
    if not isinstance(document, dict | list):
        raise UpstreamFailed("HTTP 200, but not JSON: is the base_url right?")
    return document


def _models(document: dict[str, Any] | list[Any], offers: list[Offer]) -> dict[str, tuple[str, ...]]:
    """Returns which models were found. OpenAI sends its list in `data`, Together sends it bare."""
    entries = document if isinstance(document, list) else document.get("data")
    if not isinstance(entries, list):
        raise UpstreamFailed("HTTP 200, but no list of models: is the base_url right?")
    served = {entry["id"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)}
    names = [offer.model for offer in offers]
    return {
        "models_found": tuple(name for name in names if name in served),
        "models_missing": tuple(name for name in names if name not in served),
    }


def _workers(document: dict[str, Any] | list[Any]) -> dict[str, int]:
    """Returns all counts of workers: RunPod adds states without notice."""
    if not isinstance(document, dict) or not isinstance(document.get("workers"), dict):
        raise UpstreamFailed("HTTP 200, but no worker counts: is the endpoint_id right?")
    return dict(health_of(document).workers)


def run(options: argparse.Namespace, environment: Mapping[str, str] | None = None) -> int:
    """Returns 0 if at least one provider answers, else 1. Raises ConfigurationError for a wrong configuration.

    environment: this process's by default.
    """
    loaded = validated(environment).loaded
    reports = [] if options.offline else asyncio.run(check(loaded.catalog, options.timeout))
    if options.json:
        sys.stdout.write(json.dumps(to_json(loaded, reports), indent=2) + "\n")
    else:
        show(loaded, reports, Console())
    return 0 if options.offline or any(report.reachable for report in reports) else 1


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    parser.add_argument("--offline", action="store_true", help="check the files only; send nothing")
    parser.add_argument(
        "--timeout",
        type=positive,
        default=TIMEOUT_SECONDS,
        metavar="SECONDS",
        help="how long to wait for each provider (default: 5)",
    )


def to_json(loaded: Loaded, reports: list[Report]) -> dict[str, object]:
    """Returns `{"models": [...], "tasks": {task: model}, "providers": [Report], "warnings": [...]}`."""
    return {
        "models": _public_names(loaded),
        "tasks": tasks_of(loaded.catalog.models),
        "providers": [dataclasses.asdict(report) for report in reports],
        "warnings": list(loaded.warnings),
    }


def show(loaded: Loaded, reports: list[Report], console: Console) -> None:
    """Prints a line for each provider, and what stays unknown."""
    console.print(f"Models: {', '.join(_public_names(loaded))}", markup=False, highlight=False)
    if tasks := tasks_of(loaded.catalog.models):
        answered = ", ".join(f"{task} by {model}" for task, model in sorted(tasks.items()))
        console.print(f"Tasks: {answered}", markup=False, highlight=False)
    if reports:
        table = Table("provider", "reachable", "latency", "models", "prices")
        for report in reports:
            table.add_row(*_row(report))
        console.print(table)
    for warning in (*loaded.warnings, *_bounds_warnings(reports)):
        console.print(f"warning: {warning}", markup=False, style="yellow", soft_wrap=True)


def _bounds_warnings(reports: list[Report]) -> Iterator[str]:
    for report in reports:
        if report.scaled_down is not None:
            yield f"{report.provider} is scaled down: {report.scaled_down}"
        if report.management_problem is not None and report.reachable:
            yield f"{report.provider}: its worker bounds are not known: {report.management_problem}"


def _public_names(loaded: Loaded) -> list[str]:
    return sorted(name for name in loaded.catalog.models if not name.startswith(PREFIX))


def _row(report: Report) -> tuple[str, str, str, str, str]:
    latency = "-" if report.latency_ms is None else f"{report.latency_ms:.0f} ms"
    reachable = "yes" if report.reachable else f"no: {report.problem}"
    models = [f"{len(report.models_found)} found"] if report.models_found else []
    models += [f"missing: {name}" for name in report.models_missing]
    if report.workers is not None:
        counted = ", ".join(f"{count} {state}" for state, count in report.workers.items() if count)
        most = "" if report.workers_max is None else f" of {report.workers_max} at most"
        models = [f"workers: {counted or 'none'}{most}"]
    prices = [f"{len(report.prices_known)} known"] if report.prices_known else []
    prices += [f"unknown: {name}" for name in report.prices_unknown]
    return report.provider, reachable, latency, "\n".join(models) or "-", "\n".join(prices) or "-"


COMMAND = Command(
    "Validates the environment, providers.yaml and models.yaml as `serve` does, then sends one request to every "
    "provider, and for a RunPod endpoint one to RunPod's REST API: which of them answer, which configured models they "
    "have, which prices are known, which endpoints RunPod has scaled down. No worker is woken.",
    _add_arguments,
    run,
)
