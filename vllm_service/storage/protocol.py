"""What the gateway asks of storage. Each has an embedded and a shared implementation; one test suite runs on both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from vllm_service.domain.breakers import BreakerChange, ProbeAnswer
from vllm_service.domain.keys import ApiKey
from vllm_service.domain.requests import RequestRecord


class Keys(Protocol):
    """Callers' keys, stored hashed."""

    async def find(self, secret: str) -> ApiKey | None:
        """The key that this secret belongs to; None for none, or a revoked one. Constant-time in the secret."""
        ...


class Reservation(Protocol):
    """One request's share of its limits. Ends once, by settle or release; if neither comes, its lease expires."""

    async def settle(self, tokens: int, cost_picousd: int) -> None:
        """The request used this much; what was reserved beyond it is given back."""
        ...

    async def release(self) -> None:
        """The request came to nothing: everything is given back, the request itself too."""
        ...


class Quotas(Protocol):
    """Rate limits and quotas, checked and reserved in one atomic step."""

    async def reserve(
        self, key: ApiKey, client_ip: str | None, tokens: int, cost_picousd: int, now_seconds: float
    ) -> Reservation:
        """Raises errors.RateLimited, with the limit's name and seconds to wait; then nothing was taken from any limit.

        tokens, cost_picousd: upper estimates. now_seconds: seconds since 1970.
        """
        ...


class Ledger(Protocol):
    """A row for every request, written off the hot path in batches, durable within a second."""

    def record(self, record: RequestRecord) -> None:
        """Queues the row; never blocks and never raises."""
        ...

    async def close(self) -> None:
        """Returns when everything that was queued is durable."""
        ...


class BreakerStore(Protocol):
    """What replicas tell one another of places that fail. None of it raises: without the store each is on its own."""

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
