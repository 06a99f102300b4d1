"""RunPod's `/health` of an endpoint, read leniently: a number that is missing or no count is unknown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class EndpointHealth:
    """How many jobs and workers were in which state some seconds ago.

    A state that RunPod leaves out is not in the mappings, and its property is None, unknown.
    """

    #: Jobs by RunPod's names of the states (as of 2026-11).
    jobs: Mapping[str, int] = field(default_factory=dict)
    #: Workers, likewise.
    workers: Mapping[str, int] = field(default_factory=dict)

    @property
    def jobs_queued(self) -> int | None:
        """Jobs that wait for a worker."""
        return self.jobs.get("inQueue")

    @property
    def jobs_in_progress(self) -> int | None:
        """Jobs that workers run."""
        return self.jobs.get("inProgress")

    @property
    def workers_idle(self) -> int | None:
        """Workers that are warm and free."""
        return self.workers.get("idle")

    @property
    def workers_running(self) -> int | None:
        """Workers that run jobs."""
        return self.workers.get("running")

    @property
    def workers_initializing(self) -> int | None:
        """Workers that start."""
        return self.workers.get("initializing")

    @property
    def workers_throttled(self) -> int | None:
        """Workers that wait for a GPU."""
        return self.workers.get("throttled")

    @property
    def workers_unhealthy(self) -> int | None:
        """Workers that RunPod's health checks have failed."""
        return self.workers.get("unhealthy")

    @property
    def workers_leaving(self) -> int | None:
        """Warm workers of an older version, beside one of the present version. Only a list of workers tells them."""
        return self.workers.get("leaving")

    @property
    def workers_warm(self) -> int | None:
        """Workers that can answer, as routing.capacity counts them: idle and running ones, or what is called ready."""
        counts = [self.workers.get(state) for state in ("idle", "running", "ready")]
        if counts == [None, None, None]:
            return None
        idle, running, ready = (count or 0 for count in counts)
        return max(idle + running, ready)


def parse_health(body: bytes) -> EndpointHealth | None:
    """Returns the health; None if the body cannot be a health document."""
    try:
        document = json.loads(body)
    except ValueError:
        return None
    return health_of(document) if isinstance(document, dict) else None


def health_of(document: object) -> EndpointHealth:
    """Returns every count of the document, also of states that RunPod has added since."""
    fields = document if isinstance(document, Mapping) else {}
    return EndpointHealth(_counts(fields.get("jobs")), _counts(fields.get("workers")))


def _counts(states: object) -> Mapping[str, int]:
    pairs = states.items() if isinstance(states, Mapping) else ()
    counts = {str(state): _count(value) for state, value in pairs}
    return {state: count for state, count in counts.items() if count is not None}


def _count(value: object) -> int | None:
    # Beyond 2**53 a float no longer holds every whole number, so it is no count; nan fails the comparison too.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53:
        return None
    return int(value) if value == int(value) else None
