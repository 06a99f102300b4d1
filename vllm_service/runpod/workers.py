"""RunPod's `GET /v2/serverless/{id}/workers`, read leniently: a value that is missing or nonsense is unknown.

Names as RunPod's REST v2 publishes them (schema of 2026-08-20). A worker that was scaled down is not listed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum

#: An endpoint has far fewer; what an answer lists beyond these is left out.
MOST_WORKERS = 1000
#: A pool has a few; labels of metrics need a bound.
MOST_GPU_TYPES = 20
#: A longer text is no id of RunPod's.
_LONGEST_TEXT = 200
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class WorkerStatus(StrEnum):
    """A worker's status by RunPod's names."""

    RUNNING = "RUNNING"  # runs a job
    IDLE = "IDLE"  # is warm and free
    INITIALIZING = "INITIALIZING"  # starts
    THROTTLED = "THROTTLED"  # waits for a GPU
    UNHEALTHY = "UNHEALTHY"
    #: A name that is not published, or none.
    UNKNOWN = "UNKNOWN"

    @property
    def is_warm(self) -> bool:
        """True for a worker that has loaded its model and takes jobs."""
        return self in (WorkerStatus.RUNNING, WorkerStatus.IDLE)

    @property
    def is_placed(self) -> bool:
        """True for a worker that has its GPUs, and starts or is warm."""
        return self.is_warm or self is WorkerStatus.INITIALIZING


@dataclass(frozen=True, slots=True)
class SeenWorker:
    """One worker as RunPod last listed it."""

    id: str
    status: WorkerStatus
    #: It runs an older version of the endpoint's configuration than the present one.
    is_stale: bool = False
    #: RunPod's id of the type, "NVIDIA GeForce RTX 4090"; None until the worker has a machine.
    gpu_type: str | None = None
    gpu_count: int | None = None
    data_center: str | None = None
    #: Microseconds since 1970; None until it has started.
    started_at_us: int | None = None
    uptime_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class EndpointWorkers:
    """An endpoint's workers as RunPod last listed them."""

    workers: tuple[SeenWorker, ...] = ()
    #: The present version of the endpoint's configuration.
    endpoint_version: int | None = None

    @property
    def leaving(self) -> tuple[SeenWorker, ...]:
        """The warm workers that run an older configuration, once a warm one runs the present one: RunPod ends them."""
        warm = [worker for worker in self.workers if worker.status.is_warm]
        has_successor = any(not worker.is_stale for worker in warm)
        return tuple(worker for worker in warm if worker.is_stale) if has_successor else ()

    def by_gpu_type(self) -> dict[str, int]:
        """Returns the workers that run or start, by the type of their GPUs; at most MOST_GPU_TYPES of them."""
        placed = (worker.gpu_type for worker in self.workers if worker.status.is_placed)
        return dict(Counter(gpu_type for gpu_type in placed if gpu_type is not None).most_common(MOST_GPU_TYPES))

    def health_counts(self) -> dict[str, int]:
        """Returns the workers by state, under the names that `/health` has for them; leaving ones are counted apart."""
        leaving = self.leaving
        counts = Counter(worker.status for worker in self.workers)
        counts.subtract(worker.status for worker in leaving)
        published = (status for status in WorkerStatus if status is not WorkerStatus.UNKNOWN)
        return {**{status.lower(): counts[status] for status in published}, "leaving": len(leaving)}


def parse_workers(document: object) -> EndpointWorkers | None:
    """Returns the workers of an answer that was parsed from JSON; None if it cannot be a list of workers.

    An entry without an id, or with the id of an earlier one, is left out. Numbers may be int, float or Decimal.
    """
    fields = document if isinstance(document, Mapping) else {}
    entries = fields.get("workers")
    if not isinstance(entries, list):
        return None
    seen: dict[str, SeenWorker] = {}
    for entry in entries[:MOST_WORKERS]:
        worker = _worker(entry)
        if worker is not None:
            seen.setdefault(worker.id, worker)
    if entries and not seen:
        return None
    return EndpointWorkers(tuple(seen.values()), _count(fields.get("endpointVersion")))


def _worker(entry: object) -> SeenWorker | None:
    if not isinstance(entry, Mapping) or (worker_id := _text(entry.get("id"))) is None:
        return None
    return SeenWorker(
        worker_id,
        _status(entry.get("status")),
        is_stale=entry.get("isStale") is True,
        gpu_type=_text(entry.get("gpuTypeId")),
        gpu_count=_count(entry.get("gpuCount")),
        data_center=_text(entry.get("dataCenterId")),
        started_at_us=_microseconds(entry.get("startedAt")),
        uptime_seconds=_count(entry.get("uptimeSeconds")),
    )


def _status(value: object) -> WorkerStatus:
    name = value.upper() if isinstance(value, str) else ""
    return WorkerStatus(name) if name in WorkerStatus.__members__ else WorkerStatus.UNKNOWN


def _text(value: object) -> str | None:
    is_one = isinstance(value, str) and 0 < len(value) <= _LONGEST_TEXT and value.isprintable()
    return value if is_one and isinstance(value, str) else None


def _count(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    # Compared before it is converted: int() of 1e999999 would take all memory. nan fails the comparison of floats,
    # and a Decimal's would raise.
    if (isinstance(value, Decimal) and value.is_nan()) or not 0 <= value < 2**53:
        return None
    return int(value) if value == int(value) else None


def _microseconds(value: object) -> int | None:
    """Returns the microseconds since 1970 of an RFC 3339 date and time; None without a zone, or before 1970."""
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT:
        return None
    try:
        read = datetime.fromisoformat(value)
        since = (read - _EPOCH) // _MICROSECOND if read.tzinfo is not None else -1
    except (ValueError, OverflowError):
        return None
    return since if since >= 0 else None
