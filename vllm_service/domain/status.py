"""The status of each part of the gateway, as a value, and where health, metrics and pages read it. None is unknown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, TypeVar, cast

from vllm_service.domain.spend import ProviderSpend

Status = TypeVar("Status")


class Circuit(StrEnum):
    """A circuit's state: the provider is tried always, by one trial request, or not for a while."""

    CLOSED = "closed"
    HALF_OPEN = "half_open"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class ProviderCircuit:
    """One provider's circuit breaker."""

    #: As it is for everyone.
    circuit: Circuit
    #: Failures in a row.
    failures: int | None = None
    #: How often it has opened since the start.
    openings: int | None = None
    #: Seconds since 1970.
    retry_at: float | None = None
    #: Organisations that alone are kept away from one of its models, since only their requests fail there.
    organisations: int = 0


@dataclass(frozen=True, slots=True)
class CacheState:
    """The response cache: its counts since the start, and what it holds."""

    hits: int
    misses: int
    entries: int | None = None
    size_bytes: int | None = None
    evictions: int | None = None

    @property
    def hit_rate(self) -> float | None:
        """The share of look-ups that were hits, 0-1; None before the first."""
        looked_up = self.hits + self.misses
        return self.hits / looked_up if looked_up else None


@dataclass(frozen=True, slots=True)
class LedgerState:
    """The ledger's writer."""

    #: Rows that wait to be written.
    queued: int
    #: Rows that are durable.
    written: int | None = None
    failed_writes: int | None = None
    #: Whether the last write failed.
    is_failing: bool = False
    oldest_queued_seconds: float | None = None
    #: Rows that are lost.
    dropped: int | None = None
    #: Those of the lost rows that the database would not take.
    refused: int | None = None
    #: Why the database refuses rows now, or has refused some for good; None where all is well.
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class BookingState:
    """The booking of worker seconds, which one replica does at a time."""

    #: Whether this replica does it.
    is_booking: bool
    #: Whether the last round failed.
    is_failing: bool = False
    #: Workers that live, as far as is known; None: another replica knows.
    open_lives: int | None = None
    #: Looks and lives that wait for the next round, or for the database.
    waiting: int = 0
    #: Of these, what was lost since the start.
    dropped: int = 0
    #: How old the youngest moment is that is booked; None: another replica books.
    booked_lag_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class DaySpend:
    """A provider's spend of today or yesterday, UTC."""

    day: Literal["today", "yesterday"]
    spend: ProviderSpend


@dataclass(frozen=True, slots=True)
class SpentState:
    """The ledger's spend as every replica sees it; empty before it was read."""

    days: tuple[DaySpend, ...] = ()


@dataclass(frozen=True, slots=True)
class QuotaState:
    """Reservations that are neither settled nor released, and leases that expired since the start."""

    open_reservations: int | None = None
    expired_reservations: int | None = None
    #: Limits cannot be counted, and requests are refused.
    is_failing: bool = False
    #: This process counts by itself, because the store that all processes share does not answer.
    is_counting_alone: bool = False


@dataclass(frozen=True, slots=True)
class KeysState:
    """The look-ups of callers' keys."""

    #: The last look-up failed, or one does not end: keys that are not in memory are refused.
    is_failing: bool = False
    #: Keys in memory are used on all the same.
    is_usable: bool = True


@dataclass(frozen=True, slots=True)
class PoolState:
    """One provider's connections, and the requests that wait for one."""

    #: Connections that are used or being opened.
    taken: int
    #: How many may be.
    capacity: int
    waiting: int
    #: Requests that got none since the start: they waited for too long, or too many waited.
    refusals: int


@dataclass(frozen=True, slots=True)
class PoolsState:
    """The connections to every provider to which something was sent."""

    by_provider: Mapping[str, PoolState]


@dataclass(frozen=True, slots=True)
class WorkerState:
    """A RunPod endpoint's workers and jobs, as last listed or counted."""

    running: int | None = None
    idle: int | None = None
    initializing: int | None = None
    throttled: int | None = None
    unhealthy: int | None = None
    #: Warm ones of an older version of the endpoint's configuration, which RunPod replaces.
    leaving: int | None = None
    #: Those that run or start, by RunPod's id of their GPUs' type; None where workers are counted and not listed.
    by_gpu_type: Mapping[str, int] | None = None
    jobs_queued: int | None = None
    jobs_in_progress: int | None = None
    #: The endpoint's workersMin, where the gateway sets it: so many are paid whether they work or not.
    workers_min: int | None = None
    #: How many workers RunPod lets the endpoint have.
    workers_max: int | None = None
    #: Why RunPod seems to have lowered that number by itself, and the remedy; None where it has not.
    scaled_down: str | None = None
    #: What the workers that this replica's router had started have cost since the start: seconds x price, an estimate.
    estimated_usd: float | None = None


@dataclass(frozen=True, slots=True)
class WorkerSlotState:
    """This process among those behind one port."""

    #: Its number, from 1.
    worker: int
    #: How many there are.
    workers: int
    #: Restarts of any of them since the start.
    restarts: int


@dataclass(frozen=True, slots=True)
class ProcessState:
    """This process and its machine."""

    memory_bytes: int
    #: Of one core, since the last measurement.
    cpu_percentage: float | None
    cpu_seconds: float
    open_files: int | None
    machine_available_bytes: int
    machine_cached_bytes: int | None
    machine_used_percentage: float


@dataclass(frozen=True, slots=True)
class BreakersState:
    """The circuit breakers of every provider that has been tried."""

    by_provider: Mapping[str, ProviderCircuit]


@dataclass(frozen=True, slots=True)
class WorkersState:
    """The workers of every own endpoint that has been seen."""

    by_provider: Mapping[str, WorkerState]


@dataclass(frozen=True, slots=True)
class ServerState:
    """The HTTP server of this process."""

    is_listening: bool
    #: SIGTERM has come: connections are closed when their request has ended.
    is_stopping: bool = False
    in_flight: int | None = None
    #: Callers' open connections.
    connections: int | None = None
    #: What they hold of requests, and of answers that are not sent yet.
    buffered_bytes: int | None = None
    #: Requests and connections that were refused without a row in the ledger, by error code.
    refusals: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LogState:
    """The log's writer."""

    #: What waits until stderr is read.
    waiting_bytes: int
    #: Lines that are lost since the start.
    dropped: int


@dataclass(frozen=True, slots=True)
class LoopState:
    """How late the event loop of this process runs what is due."""

    #: At the last look.
    lag_seconds: float
    #: The most within the last minute.
    longest_lag_seconds: float


@dataclass(frozen=True, slots=True)
class SessionsState:
    """Conversations that are kept."""

    active: int


@dataclass(frozen=True, slots=True)
class QualityState:
    """The mean score of a model's answers, 0-1."""

    by_model: Mapping[str, float]


class Statuses:
    """The statuses of the parts that registered, by the type of the status. Health, metrics and pages read them.

    A kind without a part is unknown: health and metrics leave it out.
    """

    def __init__(self) -> None:
        self._read: dict[type[object], Callable[[], object]] = {}

    def register(self, kind: type[Status], status: Callable[[], Status]) -> None:
        """Adds a part. status: called at each look; returns at once. Raises ValueError for a second of a kind."""
        if kind in self._read:
            raise ValueError(f"a part with {kind.__name__} is registered already")
        self._read[kind] = status

    def of(self, kind: type[Status]) -> Status | None:
        """Returns the present status of this kind; None where no such part runs here."""
        read = self._read.get(kind)
        return None if read is None else cast("Status", read())

    def all(self) -> Mapping[str, object]:
        """Returns every status by the name of its type, in the order of registration."""
        return {kind.__name__: read() for kind, read in self._read.items()}
