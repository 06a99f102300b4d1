"""The state of one endpoint, and the rules by which a worker is to be woken, or kept."""

from __future__ import annotations

from dataclasses import dataclass, field

from vllm_service.autoscaling.bounds_watch import BoundsWatch
from vllm_service.autoscaling.endpoint_look import EndpointLook, Look
from vllm_service.autoscaling.wake_progress import WakeProgress
from vllm_service.autoscaling.worker_room import WorkerRoom
from vllm_service.autoscaling.workers_min import WorkersMinFollower
from vllm_service.domain.plan import WorkerTarget
from vllm_service.domain.status import WorkerState
from vllm_service.runpod.endpoint import RunPodEndpoint
from vllm_service.runpod.health import EndpointHealth


@dataclass(slots=True)
class EndpointState:
    """One endpoint as this replica's controller sees it."""

    endpoint: RunPodEndpoint
    look: EndpointLook
    #: The model's name at the endpoint, which a warm-up job needs.
    model: str
    #: How long one job keeps an idle worker from being stopped: half the idle timeout.
    kept_seconds: float
    #: Set where workersMin follows the router; then no job wakes or keeps a worker.
    follower: WorkersMinFollower | None = None
    #: Set where the room of its workers is configured.
    room: WorkerRoom | None = None
    #: Set where the endpoint can be read in RunPod's REST API.
    bounds: BoundsWatch | None = None
    seen: Look = field(default_factory=Look)
    #: WorkerTarget.estimated_usd, as last given.
    estimated_usd: float | None = None
    #: The last wake by this replica.
    wake: WakeProgress = field(default_factory=WakeProgress)

    def take_over(self, before: EndpointState) -> None:
        """Keeps what was known of the endpoint before the configuration was read again."""
        self.seen = before.seen
        self.look.take_over(before.look)
        self.wake = before.wake
        self.estimated_usd = before.estimated_usd
        if self.bounds is not None and before.bounds is not None:
            self.bounds.take_over(before.bounds)
        if self.follower is not None and before.follower is not None and self.managed_url == before.managed_url:
            self.follower.take_over(before.follower)

    @property
    def health(self) -> EndpointHealth | None:
        """The workers and jobs as last seen; None: the endpoint did not answer, or was not looked at yet."""
        return self.seen.health

    @property
    def knows_bounds(self) -> bool:
        """True once it is known how many workers may be ordered, or that it cannot be known."""
        return self.bounds is None or self.bounds.has_looked

    @property
    def managed_url(self) -> str | None:
        """The management API's address, where workersMin follows the router."""
        return None if self.follower is None else self.follower.url

    def worker_state(self) -> WorkerState | None:
        """Returns the workers and jobs for health and metrics; None: the endpoint was not seen."""
        bounds = self.bounds
        if self.health is None and (bounds is None or bounds.most is None):
            return None
        health = self.health or EndpointHealth()
        workers = self.seen.workers
        return WorkerState(
            running=health.workers_running,
            idle=health.workers_idle,
            initializing=health.workers_initializing,
            throttled=health.workers_throttled,
            unhealthy=health.workers_unhealthy,
            leaving=health.workers_leaving,
            by_gpu_type=None if workers is None else workers.by_gpu_type(),
            jobs_queued=health.jobs_queued,
            jobs_in_progress=health.jobs_in_progress,
            workers_min=None if self.follower is None else self.follower.known,
            workers_max=None if bounds is None else bounds.most,
            scaled_down=None if bounds is None else bounds.scaled_down,
            estimated_usd=self.estimated_usd,
        )


def is_to_be_kept(target: WorkerTarget, health: EndpointHealth | None) -> bool:
    """Returns whether workers are wanted and all of them idle, as far as is known; the platform stops no busy one."""
    if target.workers <= target.always_on or health is None or not health.workers_warm:
        return False
    return not (health.jobs_in_progress or health.jobs_queued or health.workers_running)


def is_to_be_woken(target: WorkerTarget, health: EndpointHealth | None) -> bool:
    """Returns whether workers are wanted and there is none: a warm worker would take the warm-up job itself."""
    if target.workers <= target.always_on or health is None:
        return False
    return not (health.workers_warm or health.workers_initializing or health.jobs_queued)


def document_of(health: EndpointHealth) -> dict[str, object]:
    """Returns the workers as `/health` has them, without what was unknown."""
    return {"workers": dict(health.workers)}
