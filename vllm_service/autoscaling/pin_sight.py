"""Tells the pins of conversations which workers of a load-balancing endpoint they may hold."""

from __future__ import annotations

from vllm_service.autoscaling.endpoint_state import EndpointState
from vllm_service.domain.plan import WorkerTarget
from vllm_service.routing.worker_pins import WorkerPins


def tell(pins: WorkerPins, name: str, state: EndpointState, target: WorkerTarget | None, now: float) -> None:
    """Passes on what was last seen. An endpoint that was not seen changes nothing: a pin is only a preference."""
    pins.expire(now)
    if state.health is None:
        return
    warm = state.health.workers_warm or 0
    usable = None
    if state.seen.workers is not None:
        usable = {worker.id for worker in state.seen.workers.workers if worker.status.is_warm and not worker.is_stale}
    pins.observe(name, usable, warm=warm, wanted=warm if target is None else target.workers, now=now)
