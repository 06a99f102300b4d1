"""What a circuit breaker says of one place, as replicas tell one another. Durations, no clock times: clocks differ."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class BreakerState(StrEnum):
    """CLOSED lets by, OPEN does not, HALF_OPEN lets one probe by; RESTING waits out a Retry-After of a sound place."""

    CLOSED = "closed"
    RESTING = "resting"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerChange:
    """One step of one breaker.

    seconds: how long it stays OPEN or RESTING from now on. failures: in a row, when it opened.
    successes: of probes in a row, while HALF_OPEN. from_elsewhere: another replica saw it.
    """

    provider: str
    model: str
    before: BreakerState
    after: BreakerState
    reason: str
    seconds: float = 0.0
    failures: int = 0
    successes: int = 0
    from_elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """Whether a replica may probe a place now. If not, `wait_seconds` until it may ask again."""

    granted: bool
    wait_seconds: float = 0.0
    successes: int = 0
