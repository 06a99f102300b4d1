"""The settings of an emulated endpoint, and the environment of its workers. No other module reads the environment.

Limits, prices and defaults are RunPod's, from its documentation of 2026-11. They change, so each one is a field that
a caller can set; tests set small values.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from types import MappingProxyType
from typing import Literal

Scaling = Literal["queue_delay", "request_count"]
EndpointType = Literal["queue", "load_balancer"]

#: The RUNPOD_AI_API_KEY of workers. The SDK must have one; the emulator does not check it.
WORKER_KEY = "emulated-worker-key"
MEGABYTE = 1024 * 1024


@dataclass(frozen=True)
class RateLimit:
    """The rate limit of one operation."""

    #: The most requests in `EndpointSettings.rate_window_seconds`.
    per_window: int
    #: The most requests at once.
    concurrent: int


WIDE = RateLimit(2000, 400)
MIDDLE = RateLimit(1000, 200)
NARROW = RateLimit(100, 20)
RATE_LIMITS: Mapping[str, RateLimit] = MappingProxyType(
    {"runsync": WIDE, "status": WIDE, "stream": WIDE, "openai": WIDE, "run": MIDDLE, "cancel": NARROW}
)
#: For benchmarks: an operation that is not named is not limited.
NO_RATE_LIMITS: Mapping[str, RateLimit] = MappingProxyType({})


#: The first words of the REST API's paths under /v2, which can be no endpoint's id.
REST_WORDS = frozenset({"serverless", "templates", "network-volumes", "registries", "catalog", "billing"})


@dataclass(frozen=True, kw_only=True)
class EndpointSettings:
    """The settings of one endpoint. Raises ValueError for impossible values."""

    endpoint_id: str = "local"
    #: The key that clients must send; None admits every client.
    api_key: str | None = None
    host: str = "127.0.0.1"
    #: The TCP port; 0 takes any free one.
    port: int = 0
    #: How requests reach workers: as jobs through a queue, or over HTTP from the load balancer.
    type: EndpointType = "queue"

    # Scaling.
    min_workers: int = 0
    max_workers: int = 3
    scaling: Scaling = "queue_delay"
    #: With `queue_delay`: how long a job waits before one more worker is started.
    queue_delay_seconds: float = 4
    #: With `request_count`: the jobs for which one worker is started. With a load balancer, also the most that it
    #: sends to one worker at once.
    requests_per_worker: int = 4
    #: How long a worker stays without a job.
    idle_timeout_seconds: float = 5
    #: Without a request for so long, the maximum of workers is lowered to `unused_max_workers`, and later to 0.
    unused_until_reduced_seconds: float = 3 * 24 * 3600
    unused_until_stopped_seconds: float = 7 * 24 * 3600
    unused_max_workers: int = 2
    #: How long a worker may take until its first job-take; then it is unhealthy and is killed.
    init_timeout_seconds: float = 420
    #: The time between SIGTERM and SIGKILL.
    stop_grace_seconds: float = 30
    #: The pause after a worker that ended before its first job-take. Each further one in a row doubles it.
    restart_delay_seconds: float = 1
    longest_restart_delay_seconds: float = 60
    #: From so many such workers in a row on, jobs fail with the reason while no worker is due to start.
    failed_starts_until_jobs_fail: int = 3

    #: The price of a worker's second; the default is that of an L4, A5000 or 3090.
    usd_per_second: Decimal = Decimal("0.00019")

    # Jobs.
    execution_timeout_seconds: float = 600
    shortest_execution_timeout_seconds: float = 5
    longest_execution_timeout_seconds: float = 7 * 24 * 3600
    #: How long a job may wait in the queue.
    ttl_seconds: float = 24 * 3600
    #: How long a result can be read: of jobs sent to /run, and of those sent to /runsync or the OpenAI route.
    keep_run_seconds: float = 30 * 60
    keep_runsync_seconds: float = 60
    #: Batch jobs: workers of their own, the largest body of one call, and RunPod's limits of batches and requests.
    max_batch_workers: int = 1
    max_batch_bytes: int = 10 * MEGABYTE
    max_active_batches: int = 10
    max_batch_requests: int = 5000
    max_queued_batch_requests: int = 50_000
    #: How many ended batches can still be read.
    kept_batches: int = 100
    #: How often a job is queued again because its worker was lost; then it fails.
    max_redeliveries: int = 2

    # Requests.
    max_run_bytes: int = 10 * MEGABYTE
    max_runsync_bytes: int = 20 * MEGABYTE
    #: The limit of a worker's posts: of one chunk, and of a result.
    max_chunk_bytes: int = MEGABYTE
    max_result_bytes: int = 20 * MEGABYTE
    #: How long /runsync waits for the job's end without `?wait=`, and the limits of `?wait=`.
    runsync_wait_seconds: float = 90
    shortest_wait_ms: int = 1000
    longest_wait_ms: int = 300_000
    #: How long /stream waits for a first chunk.
    stream_wait_seconds: float = 1
    rate_window_seconds: float = 10
    rate_limits: Mapping[str, RateLimit] = field(default_factory=lambda: RATE_LIMITS)

    # Load balancer.
    #: How long a request waits for any worker, and for the worker that it is pinned to.
    no_worker_timeout_seconds: float = 120
    pinned_wait_seconds: float = 300
    #: How long a worker may take for one request, from its first byte to the end of its answer.
    processing_timeout_seconds: float = 330
    #: The limit of a request's body, and of an answer's.
    max_balanced_bytes: int = 30 * MEGABYTE
    #: How often a worker's health check is requested, and how long it may take. RunPod publishes neither.
    health_check_seconds: float = 1
    health_check_timeout_seconds: float = 5
    #: How long a worker that was ready may stay unhealthy until it is killed.
    unhealthy_seconds: float = 480

    # Worker API.
    #: How long a worker's job-take and job-stop polls stay open.
    take_poll_seconds: float = 30
    stop_poll_seconds: float = 30
    ping_interval_ms: int = 10_000
    #: Three missed heartbeats, and some slack.
    heartbeat_timeout_seconds: float = 35
    #: How often time-outs, heartbeats and scaling are checked.
    tick_seconds: float = 0.1

    def __post_init__(self) -> None:
        """Checks what would make a wrong URL, or arithmetic that divides by zero or runs backwards."""
        _check_endpoint_id(self.endpoint_id)
        if not 0 <= self.min_workers <= self.max_workers:
            raise ValueError(f"workers: expected 0 <= min <= max, got min {self.min_workers}, max {self.max_workers}")
        for name, least in (("requests_per_worker", 1), ("unused_max_workers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        if self.is_balanced and self.scaling != "request_count":
            raise ValueError(f"scaling: a load balancer has no queue: expected request_count, got {self.scaling}")
        self._check_seconds()
        if self.ping_interval_ms < 1000:
            raise ValueError(
                f"ping_interval_ms: expected at least 1000, got {self.ping_interval_ms}: the SDK counts whole seconds"
            )
        if not self.usd_per_second.is_finite() or self.usd_per_second < 0:
            raise ValueError(f"usd_per_second: expected a price of 0 or more, got {self.usd_per_second}")

    def _check_seconds(self) -> None:
        for setting in fields(self):
            if setting.name.endswith("_seconds") and not 0 <= (seconds := getattr(self, setting.name)) < math.inf:
                raise ValueError(f"{setting.name}: expected a finite number of seconds, 0 or more, got {seconds}")

    @property
    def is_balanced(self) -> bool:
        """Returns whether requests come from the load balancer, with no queue."""
        return self.type == "load_balancer"


def _check_endpoint_id(endpoint_id: str) -> None:
    # The id is a part of every URL.
    if not endpoint_id.isidentifier() and not endpoint_id.replace("-", "").isalnum():
        raise ValueError(f"endpoint_id: expected only letters, digits, - and _, got {endpoint_id!r}")
    if endpoint_id in REST_WORDS:
        raise ValueError(f"endpoint_id: {endpoint_id} is a path of the REST API; choose another one")


def worker_environment(settings: EndpointSettings, base_url: str, worker_id: str) -> dict[str, str]:
    """Returns the variables that RunPod sets for a worker. The SDK itself fills in $ID and $RUNPOD_POD_ID."""
    endpoint = f"{base_url}/v2/{settings.endpoint_id}"
    return _identity(settings, worker_id) | {
        # The SDK appends &batch_size=...: each URL needs a query to append to.
        "RUNPOD_WEBHOOK_GET_JOB": f"{endpoint}/job-take/$ID?gpu=emulated",
        "RUNPOD_WEBHOOK_POST_OUTPUT": f"{endpoint}/job-done/$RUNPOD_POD_ID/$ID?gpu=emulated",
        "RUNPOD_WEBHOOK_POST_STREAM": f"{endpoint}/job-stream/$RUNPOD_POD_ID/$ID?gpu=emulated",
        "RUNPOD_WEBHOOK_PING": f"{endpoint}/ping/$RUNPOD_POD_ID?gpu=emulated",
        "RUNPOD_PING_INTERVAL": str(settings.ping_interval_ms),
        "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
    }


def balanced_environment(settings: EndpointSettings, worker_id: str, port: int, health_port: int) -> dict[str, str]:
    """Returns the variables of a load-balancing endpoint's worker: its ports, and no URL of a queue."""
    return _identity(settings, worker_id) | {"PORT": str(port), "PORT_HEALTH": str(health_port)}


def _identity(settings: EndpointSettings, worker_id: str) -> dict[str, str]:
    return {
        "RUNPOD_ENDPOINT_ID": settings.endpoint_id,
        "RUNPOD_POD_ID": worker_id,
        "RUNPOD_POD_HOSTNAME": worker_id,
        "RUNPOD_AI_API_KEY": WORKER_KEY,
    }


def inherited_environment() -> dict[str, str]:
    """Returns this process's variables without RUNPOD_*: those could be another endpoint's."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RUNPOD_")}
