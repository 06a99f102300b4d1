"""The seam between the gateway and the router: a plan for one request, and reports of how its attempts went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from vllm_service.domain.requests import RequestFacts
from vllm_service.domain.usage import Usage


class Step(msgspec.Struct, frozen=True, gc=False):
    """One offer to try."""

    #: The provider's configured name.
    provider: str
    #: The model's name at the provider.
    model: str
    #: The marginal cost that the router expects; None where it is unknown.
    cost_picousd: int | None = None


class PlannedDemand(Protocol):
    """A request as it speaks for workers. It does so from its plan on, before its end is known."""

    def ended(self, *, is_answered: bool) -> None:
        """Reports its end; later calls do nothing. Without an answer it does not speak for workers any more."""
        ...


class Plan(msgspec.Struct, frozen=True, gc=False):
    """Offers in the order in which they are tried."""

    steps: tuple[Step, ...]
    #: Why in this order, for people: `x-route-reason` and the ledger.
    reason: str
    #: One for each endpoint that could serve the request.
    demands: Sequence[PlannedDemand] = ()

    def ended(self, *, is_answered: bool) -> None:
        """Reports the request's end to the demand for workers."""
        for demand in self.demands:
            demand.ended(is_answered=is_answered)


@dataclass(frozen=True, slots=True)
class WorkerTarget:
    """How many workers a per-second endpoint should have from now on, and why.

    More than there are: wake them (a cheap warm-up job, or workersMin). Fewer: let them end what they have and stop
    (workersMin, or no more jobs and the idle timeout).
    """

    provider: str
    workers: int
    reason: str
    #: How many of them are always on, without being woken or kept.
    always_on: int = 0
    #: What the workers beyond those have cost so far, by the router's count of seconds: an estimate of the bill.
    estimated_usd: float | None = None


@dataclass(frozen=True, slots=True)
class ListedWorkers:
    """The knowledge from a platform's list of an endpoint's workers beyond their counts."""

    #: Of each worker that is warm for the first time: the seconds since it started. None: the list lacks these times.
    cold_starts_seconds: tuple[float, ...] | None = ()
    #: The mean price of a second of one of the workers that are there; None where there is none, or it is unknown.
    usd_per_second: float | None = None


class AttemptObserver(Protocol):
    """Reports one attempt to the router: `first_token`, then one of the three exits; later calls do nothing.

    Times are seconds of the clock that the router was given.
    """

    def waited(self, seconds: float) -> None:
        """Reports that so long has passed before the request was sent: it waited for a connection."""
        ...

    def first_token(self, now_seconds: float) -> None:
        """Reports that the first byte of content has come back."""
        ...

    def succeeded(self, usage: Usage | None, now_seconds: float, *, is_timed: bool = True) -> None:
        """Reports a complete answer; usage is None when nothing counted it.

        is_timed: False where its end came late because its caller has read slowly.
        """
        ...

    def failed(self, status: int, retry_after_seconds: float | None, now_seconds: float) -> None:
        """Reports a provider's failure by HTTP's status, or by 0 where no answer came."""
        ...

    def abandoned(self, now_seconds: float) -> None:
        """Reports that the attempt was left before its end, which says nothing about the provider."""
        ...


class AttemptTrace(Protocol):
    """Receives each attempt that has ended."""

    def attempted(self, step: Step, seconds: float, outcome: str, status: int | None) -> None:
        """Takes an attempt that has just ended and lasted `seconds`. status: HTTP's; None if there was no answer."""
        ...


class Router(Protocol):
    """Decides and learns; takes time as an input and does no I/O. Times are seconds of one monotonic clock."""

    def plan(self, facts: RequestFacts, now_seconds: float) -> Plan:
        """Returns the offers to try.

        Raises ModelNotFound for an unknown model, InvalidRequest if the caller's rules leave none.
        """
        ...

    def started(self, step: Step, facts: RequestFacts, now_seconds: float) -> AttemptObserver:
        """Counts a request as sent to this offer; the returned observer takes the reports of what becomes of it."""
        ...

    def observe_health(
        self,
        provider: str,
        health: Mapping[str, object] | None,
        now_seconds: float,
        listed: ListedWorkers | None = None,
    ) -> None:
        """Takes an endpoint's workers as the platform's `/health` counts them; None when it did not answer.

        listed: where the platform also lists them, what the list says.
        """
        ...

    def observe_most_workers(self, provider: str, workers: int | None) -> None:
        """Takes how many workers the platform lets an endpoint have; None where that is unknown."""
        ...

    def worker_targets(self, now_seconds: float) -> tuple[WorkerTarget, ...]:
        """Returns a target per endpoint; to be called about once a second. A repeated target is no new wake."""
        ...
