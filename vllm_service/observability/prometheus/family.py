"""A Prometheus family as a value: name, kind, meaning, labels, and the function that reads it from a snapshot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from vllm_service.catalog.model import Catalog
from vllm_service.domain.status import (
    CacheState,
    KeysState,
    LedgerState,
    LogState,
    LoopState,
    PoolState,
    ProcessState,
    ProviderCircuit,
    QuotaState,
    SpentState,
    WorkerSlotState,
    WorkerState,
)
from vllm_service.observability.histogram import Distribution
from vllm_service.observability.measurements import Rates
from vllm_service.observability.tally import Tally

#: Upper bounds of the histograms. All are bounds of histogram.py too, so that their counts are exact.
BUCKET_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0, 300.0)
_BUCKET_MS = [seconds * 1000 for seconds in BUCKET_SECONDS]


@dataclass(frozen=True)
class Snapshot:
    """Everything that one scrape reports, read once. Tallies are since the start. Keys are names of the catalog."""

    catalog: Catalog
    everything: Tally
    models: Mapping[str, Tally]
    providers: Mapping[str, Tally]
    rates: Rates
    uptime_seconds: float
    targets_ms: Mapping[str, float | None]
    is_ready: bool
    breakers: Mapping[str, ProviderCircuit] = field(default_factory=dict)
    workers: Mapping[str, WorkerState] = field(default_factory=dict)
    pools: Mapping[str, PoolState] = field(default_factory=dict)
    cache: CacheState | None = None
    ledger: LedgerState | None = None
    spent: SpentState | None = None
    quotas: QuotaState | None = None
    keys: KeysState | None = None
    process: ProcessState | None = None
    loop: LoopState | None = None
    log: LogState | None = None
    #: Which of several processes this is.
    worker_slot: WorkerSlotState | None = None
    in_flight: int | None = None
    #: Callers' open connections, the bytes they hold, and what was refused without a row, by error code.
    connections: int | None = None
    buffered_bytes: int | None = None
    refusals: Mapping[str, int] = field(default_factory=dict)
    quality_scores: Mapping[str, float] = field(default_factory=dict)
    active_sessions: int | None = None


Value = float | Distribution | None
Samples = Iterable[tuple[tuple[str, ...], Value]]


@dataclass(frozen=True)
class Family:
    """One family of samples."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    #: The HELP line.
    meaning: str
    #: Returns label values with a value. A value of None is left out: unknown is no sample, never zero.
    read: Callable[[Snapshot], Samples]
    labels: tuple[str, ...] = ()

    def collect(self, snapshot: Snapshot) -> Metric:
        """Returns the family with its samples."""
        if self.kind == "histogram":
            return self._histogram(snapshot)
        kind = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        metric = kind(self.name, self.meaning, labels=self.labels)
        for labels, value in self.read(snapshot):
            if value is not None and not isinstance(value, Distribution):
                metric.add_metric(labels, float(value))
        return metric

    def _histogram(self, snapshot: Snapshot) -> Metric:
        metric = HistogramMetricFamily(self.name, self.meaning, labels=self.labels)
        for labels, value in self.read(snapshot):
            if isinstance(value, Distribution):
                counts = zip(map(str, BUCKET_SECONDS), value.cumulative(_BUCKET_MS), strict=True)
                buckets = [(bound, float(count)) for bound, count in counts] + [("+Inf", float(value.count))]
                metric.add_metric(labels, buckets, value.sum_ms / 1000)
        return metric


def counter(name: str, meaning: str, read: Callable[[Snapshot], Samples], *labels: str) -> Family:
    """Returns a family that counts since the start; its name ends in `_total`."""
    return Family(name, "counter", meaning, read, labels)


def gauge(name: str, meaning: str, read: Callable[[Snapshot], Samples], *labels: str) -> Family:
    """Returns a family of present values."""
    return Family(name, "gauge", meaning, read, labels)


def histogram(name: str, meaning: str, read: Callable[[Snapshot], Samples], *labels: str) -> Family:
    """Returns a family of distributions in seconds."""
    return Family(name, "histogram", meaning, read, labels)


def one(read: Callable[[Snapshot], float | None]) -> Callable[[Snapshot], Samples]:
    """Returns a reader of one sample without labels."""
    return lambda snapshot: [((), read(snapshot))]


def per_model(read: Callable[[Tally], Value]) -> Callable[[Snapshot], Samples]:
    """Returns a reader of a sample for every model with requests."""
    return lambda snapshot: (((name,), read(tally)) for name, tally in snapshot.models.items())


def per_provider(read: Callable[[Tally], Value]) -> Callable[[Snapshot], Samples]:
    """Returns a reader of a sample for every provider that was tried."""
    return lambda snapshot: (((name,), read(tally)) for name, tally in snapshot.providers.items())


def per_breaker(read: Callable[[ProviderCircuit], float | None]) -> Callable[[Snapshot], Samples]:
    """Returns a reader of a sample for every provider with a circuit breaker."""
    return lambda snapshot: (((name,), read(state)) for name, state in snapshot.breakers.items())


def per_pool(read: Callable[[PoolState], float | None]) -> Callable[[Snapshot], Samples]:
    """Returns a reader of a sample for every provider of the catalog to which something was sent."""
    return lambda s: (((name,), read(s.pools[name])) for name in s.catalog.providers if name in s.pools)


def per_endpoint(read: Callable[[WorkerState], float | None]) -> Callable[[Snapshot], Samples]:
    """Returns a reader of a sample for every RunPod endpoint whose health was read."""
    return lambda snapshot: (((name,), read(state)) for name, state in snapshot.workers.items())


def per_gpu_type(snapshot: Snapshot) -> Samples:
    """Yields a sample for every type of GPU on which workers of an endpoint run or start."""
    for name, state in snapshot.workers.items():
        for gpu_type, count in (state.by_gpu_type or {}).items():
            yield (name, gpu_type), count
