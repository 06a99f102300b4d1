"""What RunPod's `/health` says of an endpoint, read leniently: a number that is missing or no count is unknown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class EndpointHealth:
    """Jobs and workers, counted by RunPod some seconds ago (FACTS.md, 2026-11); None is unknown."""

    jobs_queued: int | None = None
    jobs_in_progress: int | None = None
    jobs_completed: int | None = None
    jobs_failed: int | None = None
    jobs_retried: int | None = None
    workers_idle: int | None = None
    workers_running: int | None = None
    workers_initializing: int | None = None
    workers_ready: int | None = None
    workers_throttled: int | None = None
    workers_unhealthy: int | None = None

    @property
    def workers_warm(self) -> int | None:
        """Workers that can answer, as routing.capacity counts them: idle and running ones, or what is called ready."""
        counts = (self.workers_idle, self.workers_running, self.workers_ready)
        if counts == (None, None, None):
            return None
        idle, running, ready = (count or 0 for count in counts)
        return max(idle + running, ready)


_JOBS = {"queued": "inQueue", "in_progress": "inProgress", "completed": "completed", "failed": "failed"}
_WORKERS = ("idle", "running", "initializing", "ready", "throttled", "unhealthy")


def parse_health(body: bytes) -> EndpointHealth | None:
    """None: the body is nothing that could be a health document."""
    try:
        document = json.loads(body)
    except ValueError:
        return None
    return health_of(document) if isinstance(document, dict) else None


def health_of(document: Mapping[str, Any]) -> EndpointHealth:
    """Whatever of it can be read; the rest is unknown."""
    jobs, workers = _object(document.get("jobs")), _object(document.get("workers"))
    return EndpointHealth(
        **{f"jobs_{name}": _count(jobs.get(theirs)) for name, theirs in _JOBS.items()},
        jobs_retried=_count(jobs.get("retried")),
        **{f"workers_{name}": _count(workers.get(name)) for name in _WORKERS},
    )


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53:
        return None
    return int(value) if value == int(value) else None
