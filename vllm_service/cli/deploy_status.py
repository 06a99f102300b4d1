"""`deploy status`: what a deployment has at RunPod, its workers, its release, and what it costs an hour."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console

from vllm_service.cli.deploy_apply_report import holdings_json, holdings_lines
from vllm_service.cli.deploy_session import (
    Session,
    add_name_arguments,
    names_of,
    open_session,
    run_concealed,
    spec_named,
    write_lines,
)
from vllm_service.cli.exit_codes import FAILED
from vllm_service.cli.json_option import add_json, write_json
from vllm_service.deployment.existing import Json, Names, find_existing, id_of
from vllm_service.deployment.holdings import Holdings, holdings_of, workers_of
from vllm_service.deployment.prices import read_prices
from vllm_service.deployment.settings import DeploySettings
from vllm_service.deployment.spec import DeploymentSpec
from vllm_service.runpod.rest_api import RestApi, endpoint_path
from vllm_service.runpod.rest_errors import RestError
from vllm_service.runpod.worker_bounds import parse_bounds, scaled_down_reason
from vllm_service.runpod.workers import EndpointWorkers, SeenWorker

SUMMARY = "show what exists at RunPod, its workers, and what it costs an hour"
DESCRIPTION = (
    "Shows what a deployment has at RunPod: network volume, template, endpoint, each worker, the latest release, and "
    "dollars an hour now and without requests. What is not known says so. Exits with 1 where nothing exists."
)
_MOST_RELEASES = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the action."""
    add_name_arguments(parser)
    add_json(parser)


def run(
    options: argparse.Namespace, environment: Mapping[str, str] | None = None, progress: Console | None = None
) -> int:
    """Returns 0, or 1 where nothing exists. Raises ServiceError. environment: this process's by default."""
    settings = DeploySettings.from_environment(environment)
    spec = spec_named(options)
    session = open_session(settings, spec, progress)
    names = names_of(options, spec)
    return run_concealed(session, lambda: _status(session, names, spec, as_json=options.json))


async def _status(session: Session, names: Names, spec: DeploymentSpec | None, *, as_json: bool) -> int:
    async with session.connected() as (api, _):
        existing = await find_existing(api, names)
        session.learn(existing)
        workers = {id_of(endpoint): await workers_of(api, endpoint) for endpoint in existing.endpoints}
        holdings = holdings_of(existing, workers, await read_prices(api))
        releases = {id_of(endpoint): await _releases(api, endpoint) for endpoint in existing.endpoints}
    wanted = None if spec is None else spec.workers_max
    if as_json:
        endpoints = [
            _endpoint_json(one, workers[id_of(one)], releases[id_of(one)], wanted) for one in existing.endpoints
        ]
        document = {"name": names.deployment, **holdings_json(holdings), "endpoints": endpoints}
        write_json(session.concealer.document(document))
    else:
        write_lines(session, _lines(holdings, existing.endpoints, workers, releases, wanted))
    return 0 if holdings.items else FAILED


async def _releases(api: RestApi, endpoint: Json) -> list[Mapping[str, Any]] | None:
    """Returns the latest releases, the newest first; None where they cannot be read."""
    try:
        found: list[Mapping[str, Any]] = [
            release async for release in api.pages(f"{endpoint_path(id_of(endpoint))}/releases", "releases")
        ]
    except RestError:
        return None
    return sorted(found, key=lambda release: str(release.get("createdAt", "")), reverse=True)[:_MOST_RELEASES]


def _lines(
    holdings: Holdings,
    endpoints: Sequence[Json],
    workers: Mapping[str, EndpointWorkers | None],
    releases: Mapping[str, list[Mapping[str, Any]] | None],
    wanted: int | None,
) -> Iterator[str]:
    yield from holdings_lines(holdings)
    if holdings.items:
        yield f"Prices from {holdings.prices_from}."
    for endpoint in endpoints:
        if reason := scaled_down_reason(parse_bounds(endpoint).most, wanted):
            yield f"{id_of(endpoint)}: {reason}."
        yield f"{id_of(endpoint)}: {_release_line(releases[id_of(endpoint)])}"
        seen = workers[id_of(endpoint)]
        for worker in seen.workers if seen else ():
            yield f"  worker {worker.id}: {_worker_line(worker)}"


def _release_line(releases: list[Mapping[str, Any]] | None) -> str:
    if releases is None:
        return "its releases cannot be read"
    if not releases:
        return "no release yet"
    latest = releases[0]
    changed = ", ".join(_fields_of(latest)) or "made"
    return f"release {latest.get('version', '?')} of {latest.get('createdAt', '?')} ({changed})"


def _fields_of(release: Mapping[str, Any]) -> list[str]:
    """Returns the names of the changed fields. Their values may be secrets."""
    diff = release.get("diff")
    entries = diff if isinstance(diff, list) else []
    return [str(entry["field"]) for entry in entries if isinstance(entry, Mapping) and "field" in entry]


def _worker_line(worker: SeenWorker) -> str:
    gpu = "no GPU yet" if worker.gpu_type is None else f"{worker.gpu_count or '?'} x {worker.gpu_type}"
    up = "" if worker.uptime_seconds is None else f", up {worker.uptime_seconds} s"
    stale = ", an older release" if worker.is_stale else ""
    return f"{worker.status.lower()}, {gpu}, {worker.data_center or 'nowhere yet'}{up}{stale}"


def _endpoint_json(
    endpoint: Json,
    workers: EndpointWorkers | None,
    releases: list[Mapping[str, Any]] | None,
    wanted: int | None,
) -> dict[str, Any]:
    bounds = parse_bounds(endpoint)
    return {
        "id": id_of(endpoint),
        "workers_min": bounds.least,
        "workers_max": bounds.most,
        "scaled_down": scaled_down_reason(bounds.most, wanted),
        "version": None if workers is None else workers.endpoint_version,
        "workers": None if workers is None else [_worker_json(worker) for worker in workers.workers],
        "releases": None
        if releases is None
        else [
            {"version": one.get("version"), "created_at": one.get("createdAt"), "fields": _fields_of(one)}
            for one in releases
        ],
    }


def _worker_json(worker: SeenWorker) -> dict[str, Any]:
    return {
        "id": worker.id,
        "status": worker.status.value,
        "is_stale": worker.is_stale,
        "gpu_type": worker.gpu_type,
        "gpu_count": worker.gpu_count,
        "data_center": worker.data_center,
        "uptime_seconds": worker.uptime_seconds,
    }
