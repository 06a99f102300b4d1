"""What the FastAPI side is made of: everything it reads comes in here, so that nothing is global."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from vllm_service.catalog.model import Catalog
from vllm_service.domain.status import (
    CacheState,
    LedgerState,
    ProcessState,
    ProviderCircuit,
    QuotaState,
    WorkerSlotState,
    WorkerState,
)
from vllm_service.observability.measurements import Measurements
from vllm_service.observability.process_figures import ProcessReader
from vllm_service.storage.protocol import Keys


def _unknown() -> None:
    return None


def _none_known() -> Mapping[str, ProviderCircuit]:
    return {}


def _no_workers() -> Mapping[str, WorkerState]:
    return {}


@dataclass(frozen=True)
class ServiceState:
    """Looked at when somebody asks; each returns at once. What is left out is unknown and reported as null.

    is_ready: the start is complete. is_draining: SIGTERM came. quality_scores, sessions: for what is still to come.
    place: which of several processes behind one port; None for the only one.
    """

    is_ready: Callable[[], bool]
    is_draining: Callable[[], bool] = lambda: False
    breakers: Callable[[], Mapping[str, ProviderCircuit]] = _none_known
    workers: Callable[[], Mapping[str, WorkerState]] = _no_workers
    cache: Callable[[], CacheState | None] = _unknown
    ledger: Callable[[], LedgerState | None] = _unknown
    quotas: Callable[[], QuotaState | None] = _unknown
    in_flight: Callable[[], int | None] = _unknown
    quality_scores: Callable[[], Mapping[str, float]] = dict
    active_sessions: Callable[[], int | None] = _unknown
    place: Callable[[], WorkerSlotState | None] = _unknown
    process: Callable[[], ProcessState] = field(default_factory=ProcessReader)


@dataclass(frozen=True)
class Dependencies:
    """keys None: local development, everybody may ask. started_at: seconds since 1970."""

    catalog: Callable[[], Catalog]
    measurements: Measurements
    state: ServiceState
    keys: Keys | None = None
    serves_metrics: bool = True
    metrics_need_key: bool = False
    started_at: float = field(default_factory=time.time)
    clock: Callable[[], float] = time.time
