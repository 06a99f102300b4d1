"""What the gateway asks of storage. Each has an embedded and a shared implementation; one test suite runs on both."""

from __future__ import annotations

from typing import Protocol

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
