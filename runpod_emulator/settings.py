"""What an emulated endpoint is like, and what its workers find in their environment. Alone in reading the environment.

Limits, prices and defaults are RunPod's as of 2026-11 (its documentation). They change: each is a field, so that a
caller can pass another value; a test passes small ones.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import Literal

Scaling = Literal["queue_delay", "request_count"]

WORKER_KEY = "emulated-worker-key"
MEGABYTE = 1024 * 1024


@dataclass(frozen=True)
class RateLimit:
    """At most `per_window` requests in a window of seconds, and `concurrent` at once."""

    per_window: int
    concurrent: int


WIDE, MIDDLE, NARROW = RateLimit(2000, 400), RateLimit(1000, 200), RateLimit(100, 20)
RATE_LIMITS: Mapping[str, RateLimit] = MappingProxyType(
    {"runsync": WIDE, "status": WIDE, "stream": WIDE, "openai": WIDE, "run": MIDDLE, "cancel": NARROW}
)
# For benchmarks: an operation that is not named is not limited.
NO_RATE_LIMITS: Mapping[str, RateLimit] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class EndpointSettings:
    """One endpoint. Raises ValueError for what cannot be."""

    endpoint_id: str = "local"
    api_key: str | None = None
    host: str = "127.0.0.1"
    port: int = 0  # 0: any free one

    # Scaling.
    min_workers: int = 0
    max_workers: int = 3
    scaling: Scaling = "queue_delay"
    queue_delay_seconds: float = 4
    requests_per_worker: int = 4
    idle_timeout_seconds: float = 5
    init_timeout_seconds: float = 420
    stop_grace_seconds: float = 30
    restart_delay_seconds: float = 1  # after a worker that ended before it took a job

    # Money: an L4, A5000 or 3090.
    usd_per_second: Decimal = Decimal("0.00019")

    # Jobs.
    execution_timeout_seconds: float = 600
    shortest_execution_timeout_seconds: float = 5
    longest_execution_timeout_seconds: float = 7 * 24 * 3600
    ttl_seconds: float = 24 * 3600
    keep_run_seconds: float = 30 * 60
    keep_runsync_seconds: float = 60
    max_redeliveries: int = 2

    # Requests.
    max_run_bytes: int = 10 * MEGABYTE
    max_runsync_bytes: int = 20 * MEGABYTE
    max_chunk_bytes: int = MEGABYTE
    max_result_bytes: int = 20 * MEGABYTE
    runsync_wait_seconds: float = 90
    shortest_wait_ms: int = 1000
    longest_wait_ms: int = 300_000
    stream_wait_seconds: float = 1
    rate_window_seconds: float = 10
    rate_limits: Mapping[str, RateLimit] = field(default_factory=lambda: RATE_LIMITS)

    # Worker API.
    take_poll_seconds: float = 30
    stop_poll_seconds: float = 30
    ping_interval_ms: int = 10_000
    heartbeat_timeout_seconds: float = 35  # three heartbeats missed, and some slack
    tick_seconds: float = 0.1  # how often time-outs, heartbeats and scaling are looked at

    def __post_init__(self) -> None:
        """A worker's URLs hold the id; the rest is arithmetic that must not divide by zero or run backwards."""
        if not self.endpoint_id.isidentifier() and not self.endpoint_id.replace("-", "").isalnum():
            raise ValueError(f"endpoint_id: letters, digits, - and _ only, got {self.endpoint_id!r}")
        if not 0 <= self.min_workers <= self.max_workers:
            raise ValueError(f"workers: 0 <= min <= max, got min {self.min_workers} and max {self.max_workers}")
        if self.requests_per_worker < 1:
            raise ValueError(f"requests_per_worker: at least 1, got {self.requests_per_worker}")
        if self.ping_interval_ms < 1000:
            raise ValueError("ping_interval_ms: at least 1000, because the SDK counts in whole seconds")
        if not self.usd_per_second.is_finite() or self.usd_per_second < 0:
            raise ValueError(f"usd_per_second: a price, got {self.usd_per_second}")


def worker_environment(settings: EndpointSettings, base_url: str, worker_id: str) -> dict[str, str]:
    """The variables that RunPod gives a worker; the SDK itself fills in $ID and $RUNPOD_POD_ID."""
    endpoint = f"{base_url}/v2/{settings.endpoint_id}"
    return {
        "RUNPOD_ENDPOINT_ID": settings.endpoint_id,
        "RUNPOD_POD_ID": worker_id,
        "RUNPOD_POD_HOSTNAME": worker_id,
        "RUNPOD_AI_API_KEY": WORKER_KEY,
        # The SDK appends &batch_size=...: each URL needs a query to append to.
        "RUNPOD_WEBHOOK_GET_JOB": f"{endpoint}/job-take/$ID?gpu=emulated",
        "RUNPOD_WEBHOOK_POST_OUTPUT": f"{endpoint}/job-done/$RUNPOD_POD_ID/$ID?gpu=emulated",
        "RUNPOD_WEBHOOK_POST_STREAM": f"{endpoint}/job-stream/$RUNPOD_POD_ID/$ID?gpu=emulated",
        "RUNPOD_WEBHOOK_PING": f"{endpoint}/ping/$RUNPOD_POD_ID?gpu=emulated",
        "RUNPOD_PING_INTERVAL": str(settings.ping_interval_ms),
        "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
    }


def inherited_environment() -> dict[str, str]:
    """This process's variables, without another endpoint's."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RUNPOD_")}
