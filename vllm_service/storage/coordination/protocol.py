"""What replicas do together: one probe of a place, one wake and one number of workers. None of it raises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from vllm_service.domain.breakers import BreakerChange, ProbeAnswer


class BreakerStore(Protocol):
    """What replicas tell one another of places that fail; without the store each is on its own."""

    async def publish(self, change: BreakerChange, token: str) -> None:
        """Tells the others, and ends the probe that was claimed with this token."""
        ...

    async def claim_probe(self, provider: str, model: str, token: str, seconds: float) -> ProbeAnswer:
        """Leave for one probe, of all replicas; it ends by publish or release_probe, or expires after `seconds`."""
        ...

    async def release_probe(self, provider: str, model: str, token: str) -> None:
        """The probe came to nothing."""
        ...

    async def follow(self, apply: Callable[[BreakerChange], None]) -> None:
        """Calls `apply` with what is open now and with every change of others, until it is cancelled."""
        ...


class Wakes(Protocol):
    """One wake of an endpoint at a time, of all replicas."""

    async def claim(self, endpoint: str, seconds: float) -> bool:
        """Whether it is the caller who wakes it; nobody else will be told so for `seconds`, unless it is cleared."""
        ...

    async def shorten(self, endpoint: str, seconds: float) -> None:
        """The wake failed: it may be tried again after `seconds`, by anybody."""
        ...

    async def clear(self, endpoint: str) -> None:
        """Its worker is there, or has gone: the next who wants it woken may do so."""
        ...


class Targets(Protocol):
    """How many workers each replica wants of an endpoint. The highest counts: so replicas do not fight."""

    async def publish(self, endpoint: str, replica: str, workers: int, seconds: float) -> int:
        """The highest that any replica wants; this word counts for `seconds`. Its own, while nobody can be asked."""
        ...

    async def withdraw(self, endpoint: str, replica: str) -> int | None:
        """This replica stops: the highest that the others want. None: there is no other, or nobody can be asked."""
        ...
