"""Waking an endpoint on the side, once for all replicas, while requests are served from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from vllm_service.errors import ServiceError
from vllm_service.storage.coordination.protocol import Wakes


class WakeOutcome(StrEnum):
    """The outcome of one try to wake an endpoint."""

    STARTED = "started"
    #: Another replica holds the lease.
    UNDER_WAY = "under_way"
    FAILED = "failed"


class Wakeable(Protocol):
    """An endpoint that can be woken (runpod/endpoint.py)."""

    async def wake(self, model: str) -> str:
        """Sends the warm-up job and returns its id. Raises ServiceError."""
        ...


@dataclass(frozen=True, kw_only=True)
class WakeSettings:
    """How long wakes of one endpoint are apart."""

    #: How long no other replica wakes the endpoint: its longest cold start.
    lease_seconds: float = 300.0
    #: The pause after a wake that failed.
    retry_seconds: float = 5.0


async def wake_once(
    name: str, model: str, endpoint: Wakeable, wakes: Wakes, settings: WakeSettings
) -> tuple[WakeOutcome, str | None]:
    """Wakes the endpoint unless its lease is held. Returns the outcome, and the job's id or why it failed.

    The lease outlives this call: when a worker is seen ready, or gone, the caller shortens it.
    """
    if not await wakes.claim(name, settings.lease_seconds):
        return WakeOutcome.UNDER_WAY, None
    try:
        job_id = await endpoint.wake(model)
    except ServiceError as error:
        await wakes.shorten(name, settings.retry_seconds)
        return WakeOutcome.FAILED, error.message
    return WakeOutcome.STARTED, job_id
