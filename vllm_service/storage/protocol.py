"""The protocols of storage. Each has an embedded and a shared implementation; one test suite runs on both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from vllm_service.domain.keys import ApiKey
from vllm_service.domain.requests import RequestRecord
from vllm_service.domain.status import CacheState, QuotaState
from vllm_service.domain.usage import Usage


class RememberedKey(NamedTuple):
    """A key that is in memory."""

    key: ApiKey
    #: How long it may be used before it is looked for again; 0: for this request alone.
    fresh_seconds: float


class Keys(Protocol):
    """The callers' API keys, stored as digests."""

    async def find(self, secret: str) -> ApiKey | None:
        """Returns the key of this secret; None if there is none, or it was revoked. Takes the same time for any secret.

        A key in memory is found at once while the database is slow or away. Raises errors.StorageUnavailable for one
        that is not.
        """
        ...

    def remembered(self, secret: str) -> RememberedKey | None:
        """Returns what `find` would without a look-up: the key if it is in memory; None means unknown, not invalid."""
        ...

    def is_known(self, secret: str) -> bool:
        """Returns whether the key is in memory, also where `find` would look it up again: it is no guess."""
        ...


class Reservation(Protocol):
    """One request's share of its limits. It ends once, by `settle` or `release`, else when its lease expires."""

    async def settle(self, tokens: int, cost_picousd: int) -> None:
        """Books what the request used, and gives back what was reserved beyond it."""
        ...

    async def release(self) -> None:
        """Gives back what days and months have of it: nothing was sent anywhere. Its minute and second count it on."""
        ...


class Quotas(Protocol):
    """Rate limits and quotas, checked and reserved in one atomic step."""

    async def reserve(
        self, key: ApiKey, client_ip: str | None, tokens: int, cost_picousd: int, now_seconds: float
    ) -> Reservation:
        """Takes the request from every limit, or raises errors.RateLimited and takes it from none.

        The error has the limit's name and the seconds to wait. While Redis is away this raises
        errors.StorageUnavailable, or applies this process's own limits, as configured.
        tokens, cost_picousd: upper estimates. now_seconds: seconds since 1970.
        """
        ...

    def status(self) -> QuotaState:
        """Returns what health and metrics show."""
        ...


class Ledger(Protocol):
    """One row for every request, written in batches beside the hot path, durable within a second."""

    def record(self, record: RequestRecord) -> None:
        """Queues the row. Never blocks and never raises."""
        ...

    async def close(self) -> None:
        """Returns when every queued row is durable."""
        ...

    @property
    def dropped_rows(self) -> int:
        """The number of rows that were lost since the start: the queue was full, or the database refused them."""
        ...


@dataclass(frozen=True, slots=True)
class CachedResponse:
    """An answer as it was sent: a JSON document, or a whole stream of server-sent events."""

    body: bytes
    is_stream: bool
    #: The tokens of the request that produced the answer; None where they are unknown.
    usage: Usage | None = None


class ResponseCache(Protocol):
    """Answers by organisation and key, bounded by bytes and entries, each for a limited time. Never raises."""

    async def get(self, organisation: str, key: bytes) -> CachedResponse | None:
        """Returns the answer; None if it was never stored, has expired, was evicted, or the store is away."""
        ...

    async def put(self, organisation: str, key: bytes, response: CachedResponse) -> None:
        """Stores the answer, unless it is larger than one entry may be. key: a digest of the canonical request."""
        ...

    def status(self) -> CacheState:
        """Returns what health and metrics show."""
        ...
