"""Bounds the requests that an own endpoint is sent at once: what its workers can hold, so that what is more waits here.

RunPod's queue and vLLM's are first come, first served; whatever one organisation has put into them delays all others.
The gateway's own line is fair (http/fair_queue.py), and keeps some slots free for whoever comes next. So the endpoint
gets no more than its workers hold, unless RunPod may still add workers: its scaler has to see jobs that wait.
"""

from __future__ import annotations

from dataclasses import dataclass

from vllm_service.catalog.model import Provider
from vllm_service.http.fair_queue import HELD_PER_FREE
from vllm_service.routing.profiles import EndpointProfile
from vllm_service.runpod.health import EndpointHealth


@dataclass(frozen=True, slots=True)
class WorkerRoom:
    """An endpoint's configured room."""

    #: Requests at once per worker.
    slots: int
    max_workers: int
    #: Whether RunPod decides how many workers there are beyond the first; it counts the jobs that wait in its queue.
    is_scaled_by_queue: bool

    @classmethod
    def of(cls, provider: Provider) -> WorkerRoom | None:
        """Returns the room of an endpoint's workers; None where `expected.slots` is not configured."""
        expected = dict(provider.expected)
        if "slots" not in expected:
            return None
        most = expected.get("max_workers", EndpointProfile().max_workers)
        return cls(int(expected["slots"]), int(most), provider.workers_min is None)

    def requests(self, health: EndpointHealth, own: int) -> int | None:
        """Returns how many requests this process may have under way there; None if the workers are unknown.

        own: how many it has. The jobs beyond those are other processes': they get what their share of all jobs is, and
        this one gets the rest, but never so little that it could not begin.
        """
        warm = health.workers_warm
        if warm is None:
            return None
        # Without a worker, one worker's requests go into RunPod's queue: they wake one, which then has work at once.
        room = self.slots * max(1, warm)
        if self.is_scaled_by_queue and warm < self.max_workers:
            # Alone, an organisation leaves one free for each HELD_PER_FREE that it holds, and still a few jobs wait.
            room += max(1, self.slots // HELD_PER_FREE)
            room += -(-room // HELD_PER_FREE)
        jobs = (health.jobs_in_progress or 0) + (health.jobs_queued or 0)
        others = max(0, jobs - own)
        share = room * own // jobs if jobs else room
        return max(room - others, share, room // HELD_PER_FREE, 1)
