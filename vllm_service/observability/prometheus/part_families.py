"""The families of the gateway's parts: breakers, cache, ledger, quotas, workers, process. See docs/metrics.md."""

from __future__ import annotations

from collections.abc import Callable

from vllm_service.domain.status import (
    CacheState,
    Circuit,
    LedgerState,
    LogState,
    LoopState,
    ProcessState,
    QuotaState,
    WorkerSlotState,
)
from vllm_service.observability.prometheus.family import (
    Family,
    Samples,
    Snapshot,
    counter,
    gauge,
    one,
    per_breaker,
    per_endpoint,
    per_gpu_type,
    per_pool,
)
from vllm_service.version import __version__

_CIRCUIT_VALUES = {Circuit.CLOSED: 0, Circuit.HALF_OPEN: 1, Circuit.OPEN: 2}


def _of_cache(read: Callable[[CacheState], float | None]) -> Callable[[Snapshot], Samples]:
    return one(lambda s: None if s.cache is None else read(s.cache))


def _of_ledger(read: Callable[[LedgerState], float | None]) -> Callable[[Snapshot], Samples]:
    return one(lambda s: None if s.ledger is None else read(s.ledger))


def _of_quotas(read: Callable[[QuotaState], float | None]) -> Callable[[Snapshot], Samples]:
    return one(lambda s: None if s.quotas is None else read(s.quotas))


def _of_process(read: Callable[[ProcessState], float | None]) -> Callable[[Snapshot], Samples]:
    return one(lambda s: None if s.process is None else read(s.process))


def _of_loop(read: Callable[[LoopState], float]) -> Callable[[Snapshot], Samples]:
    return one(lambda s: None if s.loop is None else read(s.loop))


def _of_log(read: Callable[[LogState], float]) -> Callable[[Snapshot], Samples]:
    return one(lambda s: None if s.log is None else read(s.log))


def _of_worker_slot(read: Callable[[WorkerSlotState], float | None]) -> Callable[[Snapshot], Samples]:
    return one(lambda s: None if s.worker_slot is None else read(s.worker_slot))


def _catalog_providers(snapshot: Snapshot) -> Samples:
    """Yields 1 for a provider that may be tried, 0 for one whose circuit is open."""
    for name in snapshot.catalog.providers:
        breaker = snapshot.breakers.get(name)
        yield (name,), float(breaker is None or breaker.circuit is not Circuit.OPEN)


PARTS: tuple[Family, ...] = (
    gauge(
        "vllm_provider_up",
        "1 if the provider may be tried, 0 while its circuit is open",
        _catalog_providers,
        "provider",
    ),
    counter(
        "vllm_circuit_breaker_open_total", "How often the circuit opened", per_breaker(lambda b: b.openings), "provider"
    ),
    gauge(
        "vllm_circuit_breaker_state",
        "0 closed, 1 half open, 2 open",
        per_breaker(lambda b: _CIRCUIT_VALUES[b.circuit]),
        "provider",
    ),
    gauge("vllm_circuit_breaker_failures", "Failures in a row", per_breaker(lambda b: b.failures), "provider"),
    gauge(
        "vllm_circuit_breaker_organisations",
        "Organisations that alone are kept away, since only their requests fail there",
        per_breaker(lambda b: b.organisations),
        "provider",
    ),
    counter("vllm_cache_hits_total", "Requests answered from the response cache", _of_cache(lambda c: c.hits)),
    counter("vllm_cache_misses_total", "Cacheable requests that were not in it", _of_cache(lambda c: c.misses)),
    gauge("vllm_cache_hit_rate", "Hits of look-ups since the start, 0 to 1", _of_cache(lambda c: c.hit_rate)),
    gauge("vllm_cache_entries", "Answers in the cache", _of_cache(lambda c: c.entries)),
    gauge("vllm_cache_size_bytes", "Bytes in the cache", _of_cache(lambda c: c.size_bytes)),
    counter(
        "vllm_cache_evictions_total",
        "Answers that were removed before they expired, to make room",
        _of_cache(lambda c: c.evictions),
    ),
    gauge("vllm_ledger_queued_rows", "Rows that are not durable yet", _of_ledger(lambda w: w.queued)),
    gauge(
        "vllm_ledger_oldest_queued_seconds", "Age of the oldest such row", _of_ledger(lambda w: w.oldest_queued_seconds)
    ),
    counter("vllm_ledger_written_rows_total", "Rows that are durable", _of_ledger(lambda w: w.written)),
    counter(
        "vllm_ledger_failed_writes_total",
        "Batches that could not be written at once",
        _of_ledger(lambda w: w.failed_writes),
    ),
    counter("vllm_ledger_dropped_rows_total", "Rows that are lost", _of_ledger(lambda w: w.dropped)),
    counter(
        "vllm_ledger_refused_rows_total",
        "Of the lost rows, those that the database refused",
        _of_ledger(lambda w: w.refused),
    ),
    gauge(
        "vllm_ledger_refusing",
        "1 while the database lacks a table or a column for rows, and once rows were refused for good",
        _of_ledger(lambda w: w.refusal is not None),
    ),
    gauge("vllm_ledger_up", "0 while rows cannot be written", _of_ledger(lambda w: not w.is_failing)),
    gauge("vllm_quota_up", "0 while limits cannot be checked", _of_quotas(lambda q: not q.is_failing)),
    gauge(
        "vllm_quota_counting_alone",
        "1 while Redis is away and this process gives out its share of each limit",
        _of_quotas(lambda q: q.is_counting_alone),
    ),
    gauge(
        "vllm_keys_up",
        "0 while keys cannot be looked up; those in memory are used on",
        one(lambda s: None if s.keys is None else not s.keys.is_failing),
    ),
    gauge("vllm_quota_open_reservations", "Neither settled nor released", _of_quotas(lambda q: q.open_reservations)),
    counter(
        "vllm_quota_expired_reservations_total", "Leases that ran out", _of_quotas(lambda q: q.expired_reservations)
    ),
    gauge("vllm_sessions_active", "Conversations that are kept", one(lambda s: s.active_sessions)),
    gauge(
        "vllm_provider_connections",
        "Connections that are used or being opened",
        per_pool(lambda p: p.taken),
        "provider",
    ),
    gauge(
        "vllm_provider_connections_limit",
        "How many may be: max_connections, or what an endpoint's workers hold",
        per_pool(lambda p: p.capacity),
        "provider",
    ),
    gauge(
        "vllm_provider_queue_requests",
        "Requests that wait for a free connection",
        per_pool(lambda p: p.waiting),
        "provider",
    ),
    counter(
        "vllm_provider_queue_refusals_total",
        "Requests that got no connection: they waited too long, or too many waited",
        per_pool(lambda p: p.refusals),
        "provider",
    ),
    gauge("vllm_workers_running", "Workers that run a job", per_endpoint(lambda w: w.running), "provider"),
    gauge("vllm_workers_idle", "Workers that are warm and free", per_endpoint(lambda w: w.idle), "provider"),
    gauge("vllm_workers_initializing", "Workers that start", per_endpoint(lambda w: w.initializing), "provider"),
    gauge("vllm_workers_throttled", "Workers that wait for a GPU", per_endpoint(lambda w: w.throttled), "provider"),
    gauge("vllm_workers_unhealthy", "Workers that fail health checks", per_endpoint(lambda w: w.unhealthy), "provider"),
    gauge(
        "vllm_workers_leaving",
        "Warm workers of an older version of the endpoint, beside one of the present version",
        per_endpoint(lambda w: w.leaving),
        "provider",
    ),
    gauge(
        "vllm_workers_by_gpu",
        "Workers that run or start, by the type of their GPUs; only where RunPod lists them",
        per_gpu_type,
        *("provider", "gpu_type"),
    ),
    gauge("vllm_worker_jobs_queued", "Jobs in the endpoint's queue", per_endpoint(lambda w: w.jobs_queued), "provider"),
    gauge(
        "vllm_worker_jobs_in_progress", "Jobs that workers run", per_endpoint(lambda w: w.jobs_in_progress), "provider"
    ),
    gauge(
        "vllm_workers_min",
        "workersMin where the gateway sets it: workers that are paid until it is lowered",
        per_endpoint(lambda w: w.workers_min),
        "provider",
    ),
    gauge(
        "vllm_workers_max",
        "Workers that RunPod lets the endpoint have",
        per_endpoint(lambda w: w.workers_max),
        "provider",
    ),
    gauge(
        "vllm_workers_scaled_down",
        "1 if RunPod has lowered that number by itself, after days without a request",
        per_endpoint(lambda w: None if w.workers_max is None else float(w.scaled_down is not None)),
        "provider",
    ),
    counter(
        "vllm_worker_cost_usd_total",
        "Expected cost of the workers that this gateway had started: seconds from start to stop x their price",
        per_endpoint(lambda w: w.estimated_usd),
        "provider",
    ),
    gauge("vllm_requests_in_flight", "Requests that have not ended", one(lambda s: s.in_flight)),
    gauge("vllm_connections", "Callers' open connections", one(lambda s: s.connections)),
    gauge("vllm_buffered_bytes", "Requests and unread answers that connections hold", one(lambda s: s.buffered_bytes)),
    counter(
        "vllm_refusals_total",
        "Requests and connections that were refused before a key was accepted or a request was whole, by error code",
        lambda s: (((code,), count) for code, count in s.refusals.items()),
        "code",
    ),
    gauge("vllm_requests_per_minute", "Over the last five minutes", one(lambda s: s.rates.requests_per_minute)),
    gauge("vllm_tokens_per_second", "Generated, over the last five minutes", one(lambda s: s.rates.tokens_per_second)),
    gauge("vllm_peak_tokens_per_second", "Generated in the best minute", one(lambda s: s.rates.peak_tokens_per_second)),
    gauge("vllm_catalog_models", "Public models, without aliases", one(lambda s: len(s.targets_ms))),
    gauge("vllm_catalog_providers", "Configured providers", one(lambda s: len(s.catalog.providers))),
    gauge("vllm_service_ready", "1 when the start is complete", one(lambda s: s.is_ready)),
    gauge("vllm_service_info", "Always 1; the version is a label", lambda _: [((__version__,), 1)], "version"),
    gauge("vllm_service_uptime_seconds", "Since the start", one(lambda s: s.uptime_seconds)),
    gauge(
        "vllm_service_event_loop_lag_seconds",
        "How late the event loop ran what was due, at the last look",
        _of_loop(lambda loop: loop.lag_seconds),
    ),
    gauge(
        "vllm_service_event_loop_longest_lag_seconds",
        "The most within the last minute",
        _of_loop(lambda loop: loop.longest_lag_seconds),
    ),
    gauge("vllm_log_waiting_bytes", "Log that waits until stderr is read", _of_log(lambda log: log.waiting_bytes)),
    counter("vllm_log_dropped_lines_total", "Lines of the log that are lost", _of_log(lambda log: log.dropped)),
    gauge(
        "vllm_gateway_process",
        "Which of the processes behind one port this is, from 1",
        _of_worker_slot(lambda p: p.worker),
    ),
    gauge("vllm_gateway_processes", "How many there are to be", _of_worker_slot(lambda p: p.workers)),
    counter(
        "vllm_gateway_process_restarts_total",
        "How often one of them ended and was started again",
        _of_worker_slot(lambda p: p.restarts),
    ),
    gauge("process_resident_memory_bytes", "Resident memory of the gateway", _of_process(lambda p: p.memory_bytes)),
    counter("process_cpu_seconds_total", "CPU time of the gateway", _of_process(lambda p: p.cpu_seconds)),
    gauge("process_open_fds", "Open files and sockets of the gateway", _of_process(lambda p: p.open_files)),
)
