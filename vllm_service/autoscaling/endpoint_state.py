"""What the keeper knows of one endpoint, and whether that means that a worker is to be woken, or kept."""

from __future__ import annotations

from dataclasses import dataclass, field

from vllm_service.autoscaling.wake_progress import WakeProgress
from vllm_service.autoscaling.workers_min import WorkersMinFollower
from vllm_service.domain.plan import WorkerTarget
from vllm_service.domain.status import WorkerState
from vllm_service.runpod.endpoint import RunPodEndpoint
from vllm_service.runpod.health import EndpointHealth


@dataclass(slots=True)
class EndpointState:
    """One endpoint. wake: the last by this replica. kept_seconds: how long a job keeps its worker from being let go.

    follower: where workersMin follows the router; then nobody is woken or kept by a job.
    """

    endpoint: RunPodEndpoint
    model: str
    kept_seconds: float
    follower: WorkersMinFollower | None = None
    health: EndpointHealth | None = None
    wake: WakeProgress = field(default_factory=WakeProgress)

    def take_over(self, before: EndpointState) -> None:
        """What was known of it before the configuration was read again."""
        self.health, self.wake = before.health, before.wake
        if self.follower is not None and before.follower is not None and self.manages == before.manages:
            self.follower.take_over(before.follower)

    @property
    def manages(self) -> str | None:
        """Where it is that workersMin follows the router."""
        return None if self.follower is None else self.follower.url

    def state(self) -> WorkerState | None:
        """For health and metrics. None: it was not seen."""
        if self.health is None:
            return None
        return _state(self.health, None if self.follower is None else self.follower.known)


def is_to_be_kept(target: WorkerTarget, health: EndpointHealth | None) -> bool:
    """Its workers idle, all of them, as far as is known; who works is not let go."""
    if target.workers <= target.always_on or health is None or not health.workers_warm:
        return False
    return not (health.jobs_in_progress or health.jobs_queued or health.workers_running)


def is_to_be_woken(target: WorkerTarget, health: EndpointHealth | None) -> bool:
    """Only from nothing: a warm-up job would be taken by a worker that is there already."""
    if target.workers <= target.always_on or health is None:
        return False
    return not (health.workers_warm or health.workers_initializing or health.jobs_queued)


def document_of(health: EndpointHealth) -> dict[str, object]:
    """As `/health` has it, without what was unknown."""
    return {"workers": dict(health.workers)}


def _state(health: EndpointHealth, workers_min: int | None) -> WorkerState:
    return WorkerState(
        health.workers_running,
        health.workers_idle,
        health.workers_initializing,
        health.workers_throttled,
        health.jobs_queued,
        health.jobs_in_progress,
        workers_min,
    )
