"""The seam between the gateway and the router: a plan for one request, and what the router is told of how it went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec

from vllm_service.domain.requests import RequestFacts
from vllm_service.domain.usage import Usage


class Step(msgspec.Struct, frozen=True, gc=False):
    """One place to try: a provider by its configured name, and the model's name there.

    cost_picousd: the marginal cost that the router expects; None where it is unknown.
    """

    provider: str
    model: str
    cost_picousd: int | None = None


class Plan(msgspec.Struct, frozen=True, gc=False):
    """Places in the order in which they are tried, and why, for people: `x-route-reason` and the ledger."""

    steps: tuple[Step, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerTarget:
    """How many workers a per-second endpoint should have from now on, and why.

    More than there are: wake them (a cheap warm-up job, or workersMin). Fewer: let them end what they have and leave
    (workersMax, or no more jobs and the idle time-out). always_on: of them, there without being woken or kept.
    """

    provider: str
    workers: int
    reason: str
    always_on: int = 0


class AttemptObserver(Protocol):
    """What a router learns from one attempt: `first_token`, then one of the three exits; later calls do nothing.

    Times are seconds of the clock that the router was given.
    """

    def first_token(self, now_seconds: float) -> None:
        """The first byte of content has come back."""
        ...

    def succeeded(self, usage: Usage | None, now_seconds: float) -> None:
        """The answer is complete; usage None when nothing counted it."""
        ...

    def failed(self, status: int, retry_after_seconds: float | None, now_seconds: float) -> None:
        """The provider failed: HTTP's status, or 0 where no answer came."""
        ...

    def abandoned(self, now_seconds: float) -> None:
        """The attempt was left before its end, which says nothing about the provider."""
        ...


class Router(Protocol):
    """Decides and learns; takes time as an input and does no I/O. Times are seconds of one monotonic clock."""

    def plan(self, facts: RequestFacts, now_seconds: float) -> Plan:
        """Raises errors.ModelNotFound if nobody serves it, errors.ModelUnavailable when none may be tried."""
        ...

    def started(self, step: Step, facts: RequestFacts, now_seconds: float) -> AttemptObserver:
        """The request is sent there; what becomes of it goes to the observer, which holds all that it needs."""
        ...

    def observe_health(self, provider: str, health: Mapping[str, object] | None, now_seconds: float) -> None:
        """What the platform's `/health` said of an endpoint's workers; None when it did not answer."""
        ...

    def worker_targets(self, now_seconds: float) -> tuple[WorkerTarget, ...]:
        """To be asked about once a second. The same target again is no new wake: the gateway acts on changes."""
        ...
