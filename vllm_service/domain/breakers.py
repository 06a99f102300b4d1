"""A circuit breaker's states and changes, as replicas exchange them. Durations, no clock times: clocks differ."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class BreakerState(StrEnum):
    """A breaker's state: which requests go to the provider's model."""

    #: Every request goes there.
    CLOSED = "closed"
    #: None goes there until a Retry-After is over; the provider is sound, so no probe is needed then.
    RESTING = "resting"
    #: None goes there until the pause is over.
    OPEN = "open"
    #: One request at a time goes there, as a probe; two where they are of two organisations.
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerChange:
    """One breaker's change from one state to another."""

    provider: str
    model: str
    before: BreakerState
    after: BreakerState
    reason: str
    #: How long it stays OPEN or RESTING from now on.
    seconds: float = 0.0
    #: Failures in a row, when it opened.
    failures: int = 0
    #: Probes in a row that succeeded, while HALF_OPEN.
    successes: int = 0
    #: Whether another replica saw it.
    from_elsewhere: bool = False
    #: The organisation whose requests alone it is about; None: everyone's.
    organisation: str | None = None


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """The answer to a replica's claim to probe a provider's model now."""

    granted: bool
    #: If it is not granted: how long until the replica may try again.
    wait_seconds: float = 0.0
    #: Probes in a row that have succeeded so far, at all replicas.
    successes: int = 0


@dataclass(frozen=True, slots=True)
class ProbeClaim:
    """One probe, as replicas agree on it."""

    provider: str
    model: str
    #: Whose breaker is probed; None: everyone's.
    breaker_of: str | None
    #: The organisation whose request it is; empty where organisations are not told apart.
    sender: str
    #: Names the claim.
    token: str
