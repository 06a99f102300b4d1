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


class Router(Protocol):
    """Decides and learns; takes time as an input and does no I/O. Times are seconds of one monotonic clock."""

    def plan(self, facts: RequestFacts, now_seconds: float) -> Plan:
        """Raises errors.ModelNotFound if nobody serves it, errors.ModelUnavailable when none may be tried."""
        ...

    def started(self, step: Step, facts: RequestFacts, now_seconds: float) -> None:
        """The request has been sent to this place."""
        ...

    def first_token(self, step: Step, facts: RequestFacts, now_seconds: float) -> None:
        """The first byte of content has come back."""
        ...

    def finished(self, step: Step, facts: RequestFacts, usage: Usage | None, now_seconds: float) -> None:
        """The answer is complete; usage None when nobody counted it."""
        ...

    def failed(
        self, step: Step, facts: RequestFacts, status: int, retry_after_seconds: float | None, now_seconds: float
    ) -> None:
        """This place failed (status as HTTP, 0 when no answer came) or was left before its end (status 499)."""
        ...

    def observe_health(self, provider: str, health: Mapping[str, object] | None, now_seconds: float) -> None:
        """What the platform's `/health` said of an endpoint's workers; None when it did not answer."""
        ...

    def worker_targets(self, now_seconds: float) -> tuple[WorkerTarget, ...]:
        """To be asked about once a second. The same target again is no new wake: the gateway acts on changes."""
        ...
