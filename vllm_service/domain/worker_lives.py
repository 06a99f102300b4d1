"""The lives of workers at own endpoints, as seen from outside, and the looks from which they are known."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

#: Microseconds since 1970, from and until.
Span = tuple[int, int]


class Phase(StrEnum):
    """A worker's state, as far as its bill is concerned."""

    #: It loads its model.
    STARTING = "starting"
    #: It takes requests.
    WARM = "warm"
    #: It waits for a GPU or is not healthy: its seconds are not billed.
    UNBILLED = "unbilled"
    #: It is there, in the phase in which it was seen before.
    UNKNOWN = "unknown"


class KnownBy(StrEnum):
    """The source from which a life is known, the best first."""

    #: A list of the endpoint's workers, with their starts.
    WORKERS = "workers"
    #: The endpoint's counts of workers by state.
    HEALTH = "health"
    #: Requests that were answered while no worker was seen.
    REQUESTS = "requests"


@dataclass(frozen=True, slots=True)
class WorkerSight:
    """One worker of a list."""

    worker_id: str
    phase: Phase
    #: Whether it was at work, for whomever.
    is_running: bool = False
    #: Microseconds since 1970; None: the list lacks it.
    started_at_us: int | None = None
    gpu_type: str | None = None
    gpu_count: int | None = None
    data_center: str | None = None


@dataclass(frozen=True, slots=True)
class WorkerCounts:
    """The numbers of workers in each phase; running ones are among the warm."""

    starting: int = 0
    warm: int = 0
    running: int = 0


@dataclass(frozen=True, slots=True)
class EndpointSight:
    """One look at an endpoint: its workers, else their counts; with neither it was not seen."""

    #: Microseconds since 1970.
    at_us: int
    workers: tuple[WorkerSight, ...] | None = None
    counts: WorkerCounts | None = None


@dataclass(frozen=True, slots=True)
class Keeper:
    """A request that pays for a worker while nothing runs there."""

    #: Its row's id in the ledger.
    row_id: int
    #: When it began, in microseconds since 1970.
    started_at_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLife:
    """One worker's time from its start to its stop, as seen. Times are microseconds since 1970."""

    #: Names the life for good; a worker that stops and starts again has another one.
    life_id: str
    provider: str
    endpoint_id: str
    #: RunPod's name of the worker; one of our own where only counts are known.
    worker_id: str
    started_at_us: int
    known_by: KnownBy
    last_seen_us: int
    gpu_type: str | None = None
    gpu_count: int | None = None
    data_center: str | None = None
    #: None: the price is unknown, and the life is not booked.
    picousd_per_microsecond: int | None = None
    #: None: not ready as far as is known.
    ready_at_us: int | None = None
    #: None: it lives as far as is known.
    stopped_at_us: int | None = None
    #: How far start and stop together may be off.
    uncertain_us: int = 0
    #: When it was at work, as far as that is not booked yet: between two looks that both saw it running.
    running_spans: tuple[Span, ...] = ()
    #: Until when its seconds are booked.
    booked_until_us: int
    booked_picousd: int = 0
    #: The requests that pay while nothing runs; empty: none does. None: not known yet.
    keepers: tuple[Keeper, ...] | None = None
    #: Whether it has stopped and is booked to its end.
    is_settled: bool = False


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """A request that was sent to an endpoint, by its row in the ledger; times in microseconds since 1970."""

    row_id: int
    started_us: int
    ended_us: int
    #: Whether a worker has answered it, at least in part.
    is_answered: bool = True
