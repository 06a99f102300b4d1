"""Endpoints, workers and their counts as the REST API shows them."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

from runpod_emulator.account.account import Account
from runpod_emulator.account.configuration import ContainerConfig
from runpod_emulator.account.serverless import ServerlessEndpoint
from runpod_emulator.endpoint.address import HEALTH_CHECK_PATH
from runpod_emulator.endpoint.registry import State, Worker
from runpod_emulator.settings import EndpointSettings

Document = dict[str, Any]

STATUSES = ("running", "idle", "initializing", "throttled", "unhealthy")
#: The last part of each URL of the job API.
REQUEST_PATHS = {
    "run": "run",
    "runSync": "runsync",
    "status": "status/{job_id}",
    "stream": "stream/{job_id}",
    "cancel": "cancel/{job_id}",
    "retry": "retry/{job_id}",
    "purgeQueue": "purge-queue",
    "health": "health",
}


def endpoint_document(account: Account, endpoint: ServerlessEndpoint) -> Document:
    """Returns the whole endpoint."""
    config, settings = endpoint.config, endpoint.state.settings
    return container_document(config.container) | {
        "id": endpoint.id,
        "name": config.name,
        "type": settings.type.upper(),
        "requestUrls": _request_urls(account, endpoint),
        "gpu": {
            "pools": list(config.gpu.pools),
            "excludedTypes": list(config.gpu.excluded_types),
            "count": config.gpu.count,
            "allowedCudaVersions": list(config.gpu.allowed_cuda_versions),
            "minCudaVersion": config.gpu.min_cuda_version,
        },
        "workers": _workers(settings),
        "scaling": _scaling(settings),
        "dataCenterIds": list(config.data_center_ids),
        "networkVolumes": list(config.network_volumes),
        "timeout": round(settings.execution_timeout_seconds * 1000),
        "flashboot": config.flashboot,
        "createdAt": time_text(endpoint.created_at),
    }


def _request_urls(account: Account, endpoint: ServerlessEndpoint) -> Document:
    if endpoint.state.settings.is_balanced:
        base = account.balanced_url(endpoint.id)
        path = endpoint.config.container.env.get("HEALTH_CHECK_PATH") or HEALTH_CHECK_PATH
        return {"base": base, "health": f"{base}/{path.removeprefix('/')}"}
    base = f"{account.origin}/v2/{endpoint.id}"
    return {name: f"{base}/{path}" for name, path in REQUEST_PATHS.items()}


def container_document(container: ContainerConfig) -> Document:
    """Returns the container's fields, of an endpoint or of a template."""
    return {
        "image": container.image,
        "args": container.args,
        "disk": container.disk_gb,
        "ports": list(container.ports),
        "env": dict(container.env),
        "registry": container.registry,
    }


def workers_document(endpoint: ServerlessEndpoint) -> Document:
    """Returns the workers that have not stopped, and their numbers by status."""
    workers = _present(endpoint)
    counts = Counter(worker.state.value for worker in workers)
    return {
        "workers": [_worker(endpoint, worker) for worker in workers],
        "summary": {status: counts[status] for status in STATUSES} | {"total": len(workers)},
        "endpointVersion": endpoint.version,
    }


def releases_document(endpoint: ServerlessEndpoint) -> Document:
    """Returns the releases, the latest first, and how many workers run the latest."""
    workers = _present(endpoint)
    by_version = Counter(worker.release.version for worker in workers)
    latest = by_version[endpoint.version]
    return {
        "endpointVersion": endpoint.version,
        "rollout": {
            "inProgress": latest < len(workers),
            "workersOnLatest": latest,
            "workersTotal": len(workers),
            "percentOnLatest": 100 * latest // len(workers) if workers else 0,
        },
        "releases": [
            {
                "id": release.id,
                "version": release.version,
                "source": "MANUAL",
                "buildId": None,
                "createdByUserId": None,
                "workerCount": by_version[release.version],
                "createdAt": time_text(release.created_at),
                "diff": [{"field": change.field, "old": change.old, "new": change.new} for change in release.changes],
            }
            for release in reversed(endpoint.releases)
        ],
    }


def time_text(moment: datetime) -> str:
    """Returns a time in UTC as RFC 3339 has it, to the millisecond."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _present(endpoint: ServerlessEndpoint) -> list[Worker]:
    known = endpoint.state.registry.workers.values()
    return [worker for worker in known if worker.state is not State.STOPPED and not worker.takes_batches]


def _worker(endpoint: ServerlessEndpoint, worker: Worker) -> Document:
    state, placement = endpoint.state, worker.placement
    is_placed = worker.state is not State.THROTTLED
    started_at = datetime.fromtimestamp(state.clock_began_at + worker.started_at, UTC)
    return {
        "id": worker.id,
        "status": worker.state.value.upper(),
        "isStale": state.registry.is_stale(worker),
        "version": worker.release.version,
        "gpuCount": placement.gpu_count,
        "image": worker.release.image,
        "uptimeSeconds": max(0, int(state.clock() - worker.started_at)) if is_placed else None,
        "gpuTypeId": placement.gpu_type_id,
        "dataCenterId": placement.data_center_id,
        "startedAt": time_text(started_at) if is_placed else None,
    }


def _workers(settings: EndpointSettings) -> Document:
    bounds: Document = {"min": settings.min_workers, "max": settings.max_workers}
    # The published schema omits it where a queue scales by the number of jobs, and has whole seconds from 1 on.
    if settings.scaling == "queue_delay" or settings.is_balanced:
        bounds["idleTimeout"] = min(3600, max(1, round(settings.idle_timeout_seconds)))
    return bounds


def _scaling(settings: EndpointSettings) -> Document:
    if settings.scaling == "queue_delay":
        return {"type": "QUEUE_DELAY", "queueDelay": settings.queue_delay_seconds}
    return {"type": "REQUEST_COUNT", "requestCount": settings.requests_per_worker}
