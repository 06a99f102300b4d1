"""The parts of the gateway that the FastAPI routes read; they are passed in, nothing is global."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from vllm_service.catalog.model import Catalog
from vllm_service.domain.status import BreakersState, ProviderCircuit, ServerState, Statuses, WorkersState, WorkerState
from vllm_service.observability.measurements import Measurements
from vllm_service.observability.process_figures import ProcessReader
from vllm_service.storage.protocol import Keys


@dataclass(frozen=True)
class Dependencies:
    """The parts that routes report on. A part without a status in `statuses` is unknown and reported as null."""

    catalog: Callable[[], Catalog]
    measurements: Measurements
    statuses: Statuses
    #: None in local development, where no key is needed.
    keys: Keys | None = None
    #: At the gateway's own port; METRICS_PORT is another.
    serves_metrics: bool = True
    metrics_need_key: bool = True
    #: Seconds since 1970.
    started_at: float = field(default_factory=time.time)
    #: Returns seconds since 1970.
    clock: Callable[[], float] = time.time
    process: ProcessReader = field(default_factory=ProcessReader)

    @property
    def server(self) -> ServerState:
        """Returns the HTTP server's state: not listening where none is registered."""
        return self.statuses.of(ServerState) or ServerState(is_listening=False)

    @property
    def breakers(self) -> Mapping[str, ProviderCircuit]:
        """Returns circuit breakers by provider; empty where no provider has failed yet."""
        breakers = self.statuses.of(BreakersState)
        return {} if breakers is None else breakers.by_provider

    @property
    def workers(self) -> Mapping[str, WorkerState]:
        """Returns workers by own endpoint; empty where no endpoint has been watched yet."""
        workers = self.statuses.of(WorkersState)
        return {} if workers is None else workers.by_provider

    @property
    def switched_off(self) -> Mapping[str, str]:
        """Returns the own endpoints that RunPod lets have no worker, each with the reason and the remedy."""
        return {name: state.scaled_down or "" for name, state in self.workers.items() if state.workers_max == 0}
