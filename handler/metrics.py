"""The worker's Prometheus metrics beside vLLM's: jobs, posts, bytes, and the seconds of each phase of the start."""

from __future__ import annotations

import logging
from typing import Literal

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, start_http_server

logger = logging.getLogger(__name__)

#: "stopped" by the platform, "returned" to it: a job that never began, because the engine was gone.
Outcome = Literal["completed", "failed", "stopped", "returned"]
JOB_SECONDS_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class WorkerMetrics:
    """Counts jobs, posts and phases. Labels have a handful of values each; a job, model or prompt is never one."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = CollectorRegistry() if registry is None else registry
        self._jobs = Counter("worker_jobs", "Jobs that ended, by outcome", ["outcome"], registry=registry)
        self._job_seconds = Histogram(
            "worker_job_seconds", "From taking a job to its end", buckets=JOB_SECONDS_BUCKETS, registry=registry
        )
        self._wait_seconds = Histogram(
            "worker_first_output_seconds",
            "From taking a job to its first output: the engine's queue and the prefill, or all of a plain answer",
            buckets=JOB_SECONDS_BUCKETS,
            registry=registry,
        )
        self._running = Gauge("worker_jobs_in_progress", "Jobs taken and not yet answered", registry=registry)
        self._posts = Counter("worker_posts", "Posts to RunPod, by kind", ["kind"], registry=registry)
        self._bytes = Counter("worker_posted_bytes", "Bytes posted to RunPod, by kind", ["kind"], registry=registry)
        self._payload = Counter("worker_stream_payload_bytes", "Bytes of server-sent events posted", registry=registry)
        self._phases = Gauge(
            "worker_start_phase_seconds", "What each phase of the start took", ["phase"], registry=registry
        )

    def job_started(self) -> None:
        """Counts a job that was taken."""
        self._running.inc()

    def first_output(self, seconds: float) -> None:
        """Records how long a job waited in this worker. RunPod does not pass on how long it was queued before."""
        self._wait_seconds.observe(seconds)

    def job_ended(self, outcome: Outcome, seconds: float) -> None:
        """Counts a job whose end was posted, that the platform stopped, or that goes back to it."""
        self._running.dec()
        self._jobs.labels(outcome).inc()
        self._job_seconds.observe(seconds)

    def posted(self, kind: Literal["stream", "result"], size_bytes: int, payload_bytes: int = 0) -> None:
        """Counts a delivered post; `payload_bytes` of it are server-sent events."""
        self._posts.labels(kind).inc()
        self._bytes.labels(kind).inc(size_bytes)
        self._payload.inc(payload_bytes)

    def phase_took(self, phase: str, seconds: float) -> None:
        """Records the seconds of a phase of the start."""
        self._phases.labels(phase).set(seconds)


def process_registry() -> CollectorRegistry:
    """Returns the registry in which vLLM keeps its metrics."""
    return REGISTRY


def serve(port: int) -> None:
    """Serves the process's registry on `port` from a thread of its own.

    A port that cannot be had costs the metrics, not the worker.
    """
    try:
        start_http_server(port, registry=REGISTRY)
    except (OSError, OverflowError) as error:
        logger.warning("METRICS_PORT=%d cannot be used, so there are no metrics: %s", port, error)
