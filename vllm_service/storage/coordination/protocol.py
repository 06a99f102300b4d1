"""The protocols of what replicas do together: one probe of an offer, one wake, one number of workers.

No method raises: while Redis is away each replica decides alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from vllm_service.domain.breakers import BreakerChange, ProbeAnswer


class BreakerStore(Protocol):
    """Shares the state of circuit breakers between replicas. A breaker belongs to an offer: a provider and a model."""

    async def publish(self, change: BreakerChange, token: str) -> None:
        """Sends the change to the other replicas, and ends the probe that was claimed with this token."""
        ...

    async def claim_probe(self, provider: str, model: str, token: str, seconds: float) -> ProbeAnswer:
        """Claims the only probe of all replicas. It ends by publish or release_probe, or expires after `seconds`."""
        ...

    async def release_probe(self, provider: str, model: str, token: str) -> None:
        """Ends a probe that has shown nothing about the offer."""
        ...

    async def follow(self, apply: Callable[[BreakerChange], None]) -> None:
        """Calls `apply` for every open breaker and every change by other replicas, until it is cancelled."""
        ...


class Wakes(Protocol):
    """Wake leases: of all replicas, one at a time wakes an endpoint."""

    async def claim(self, endpoint: str, seconds: float) -> bool:
        """Returns True if the caller is to wake the endpoint; it then has the lease for `seconds`, or until `clear`."""
        ...

    async def shorten(self, endpoint: str, seconds: float) -> None:
        """Cuts the lease to `seconds` after a wake that failed; any replica may try again after them."""
        ...

    async def clear(self, endpoint: str) -> None:
        """Ends the lease: the worker is there, or has gone. Any replica may claim the next one."""
        ...


class Targets(Protocol):
    """Each replica's target of workers for an endpoint. The highest counts, so that replicas do not fight."""

    async def publish(self, endpoint: str, replica: str, workers: int, seconds: float) -> int:
        """Returns the highest target of all replicas; this one counts for `seconds`. While Redis is away: `workers`."""
        ...

    async def withdraw(self, endpoint: str, replica: str) -> int | None:
        """Removes this replica's target; returns the highest of the others. None: there is none, or Redis is away."""
        ...
