"""What the gateway asks of storage. Each has an embedded and a shared implementation; one test suite runs on both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from vllm_service.domain.keys import ApiKey
from vllm_service.domain.requests import RequestRecord
from vllm_service.domain.status import CacheState, QuotaState
from vllm_service.domain.usage import Usage


class Keys(Protocol):
    """Callers' keys, stored hashed."""

    async def find(self, secret: str) -> ApiKey | None:
        """The key that this secret belongs to; None for none, or a revoked one. Constant-time in the secret.

        Raises errors.StorageUnavailable for a key that is not known yet while the database is away.
        """
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

        With Redis away: errors.StorageUnavailable, or this process's own limits, as configured.
        tokens, cost_picousd: upper estimates. now_seconds: seconds since 1970.
        """
        ...

    def status(self) -> QuotaState:
        """Returns what health and metrics show."""
        ...


class Ledger(Protocol):
    """A row for every request, written off the hot path in batches, durable within a second."""

    def record(self, record: RequestRecord) -> None:
        """Queues the row; never blocks and never raises."""
        ...

    async def close(self) -> None:
        """Returns when everything that was queued is durable."""
        ...

    @property
    def dropped_rows(self) -> int:
        """Rows that could not be kept since the start: the queue was full, or no database would take them."""
        ...


@dataclass(frozen=True, slots=True)
class CachedResponse:
    """An answer as it was sent: a JSON document, or a whole stream of server-sent events.

    usage: the tokens of the request that made it, None where nobody counted them.
    """

    body: bytes
    is_stream: bool
    usage: Usage | None = None


class ResponseCache(Protocol):
    """Answers by organisation and key, bounded by bytes and entries, each for a limited time. Never raises."""

    async def get(self, organisation: str, key: bytes) -> CachedResponse | None:
        """None: never stored, expired, evicted, or the store does not answer."""
        ...

    async def put(self, organisation: str, key: bytes, response: CachedResponse) -> None:
        """Keeps it, unless it alone is larger than one entry may be. key: a digest of the canonical request."""
        ...

    def status(self) -> CacheState:
        """Returns what health and metrics show."""
        ...
