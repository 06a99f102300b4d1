"""Tells apart why an endpoint has no ready worker yet, and says what to do when that takes too long."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum

from vllm_service.runpod.workers import EndpointWorkers, WorkerStatus


class Situation(StrEnum):
    """The state of an endpoint's workers, as a person waits for it."""

    READY = "a worker is ready"
    INITIALIZING = "a worker starts: its image is pulled, then its model is loaded"
    UNHEALTHY = "the worker is unhealthy: it ended, or was not ready in time"
    THROTTLED = "RunPod has no free GPU for the worker"
    NO_WORKER = "RunPod has not begun to start a worker"
    UNKNOWN = "the workers cannot be seen"


#: What to do when the time is up.
ADVICE = {
    Situation.READY: "a worker is ready and does not take the request: read its log with `deploy logs`",
    Situation.INITIALIZING: (
        "a large image or model takes this long at its first start: read the log with `deploy logs --follow`, and run "
        "`deploy apply` again, which goes on waiting"
    ),
    Situation.UNHEALTHY: (
        "read why with `deploy logs`; a start of more than 7 minutes needs the variable RUNPOD_INIT_TIMEOUT (seconds)"
    ),
    Situation.THROTTLED: (
        "name more GPU pools (gpu_pools), or leave data_center out so that RunPod can place the worker anywhere; "
        "`deploy plan` lists the pools that hold the model"
    ),
    Situation.NO_WORKER: "check that workers_max is above 0, and that the account has credit and room for workers",
    Situation.UNKNOWN: "check that the key may read this endpoint, and look at it in RunPod's console",
}


def situation_of(workers: EndpointWorkers | None) -> Situation:
    """Returns the best of the workers' states: one that is ready counts, whatever the others are.

    A worker of an older configuration counts only where it is warm, since it is about to be replaced.
    """
    if workers is None:
        return Situation.UNKNOWN
    if any(worker.status.is_warm for worker in workers.workers):
        return Situation.READY
    present = {worker.status for worker in workers.workers}
    order = {
        WorkerStatus.INITIALIZING: Situation.INITIALIZING,
        WorkerStatus.UNHEALTHY: Situation.UNHEALTHY,
        WorkerStatus.THROTTLED: Situation.THROTTLED,
        WorkerStatus.UNKNOWN: Situation.UNKNOWN,
    }
    return next((situation for status, situation in order.items() if status in present), Situation.NO_WORKER)


def counted(workers: EndpointWorkers | None) -> str:
    """Returns the workers by state in words, such as `2 workers: 1 running, 1 throttled`."""
    if workers is None:
        return "workers unknown"
    if not workers.workers:
        return "no worker"
    states = Counter(worker.status.lower() for worker in workers.workers)
    total = len(workers.workers)
    return f"{total} worker{'s' if total > 1 else ''}: " + ", ".join(f"{n} {state}" for state, n in states.items())
