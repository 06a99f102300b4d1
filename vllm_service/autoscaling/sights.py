"""Reads a look at an endpoint as what it says about the bill of its workers."""

from __future__ import annotations

from vllm_service.domain.worker_lives import EndpointSight, Phase, WorkerCounts, WorkerSight
from vllm_service.runpod.health import EndpointHealth
from vllm_service.runpod.workers import EndpointWorkers, SeenWorker, WorkerStatus

#: What RunPod bills of each status (as of 2026-11): not while a worker waits for a GPU or is not healthy.
_PHASES = {
    WorkerStatus.RUNNING: Phase.WARM,
    WorkerStatus.IDLE: Phase.WARM,
    WorkerStatus.INITIALIZING: Phase.STARTING,
    WorkerStatus.THROTTLED: Phase.UNBILLED,
    WorkerStatus.UNHEALTHY: Phase.UNBILLED,
    WorkerStatus.UNKNOWN: Phase.UNKNOWN,
}


def sight_of(workers: EndpointWorkers | None, health: EndpointHealth | None, at_us: int) -> EndpointSight:
    """Returns the look: by the list of workers if there is one, else by the counts, else as one that saw nothing."""
    if workers is not None:
        return EndpointSight(at_us, workers=tuple(map(_worker, workers.workers)))
    if health is None or health.workers_warm is None:
        return EndpointSight(at_us)
    counts = WorkerCounts(health.workers_initializing or 0, health.workers_warm, health.workers_running or 0)
    return EndpointSight(at_us, counts=counts)


def _worker(seen: SeenWorker) -> WorkerSight:
    return WorkerSight(
        seen.id,
        _PHASES[seen.status],
        seen.status is WorkerStatus.RUNNING,
        seen.started_at_us,
        seen.gpu_type,
        seen.gpu_count,
        seen.data_center,
    )
