"""When a circuit breaker opens, for how long, and what closes it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class BreakerSettings:
    """When a breaker opens and closes. Raises ValueError for what cannot be.

    error_rate: share of failures in the window that opens it, from `minimum_requests` on.
    open_seconds: the first time; doubled by each probe that fails, up to `longest_open_seconds`.
    longest_retry_after_seconds: more than this is not believed.
    probe_seconds: a probe of which nothing was heard for so long is lost; more than any first byte may take.
    throttled_seconds: 429s alone for so long, and at least `consecutive_failures` of them, open it.
    """

    consecutive_failures: int = 5
    error_rate: float = 0.5
    window_seconds: float = 30.0
    minimum_requests: int = 20
    open_seconds: float = 10.0
    longest_open_seconds: float = 300.0
    longest_retry_after_seconds: float = 3600.0
    successes_to_close: int = 2
    probe_seconds: float = 150.0
    throttled_seconds: float = 60.0

    def __post_init__(self) -> None:
        """Counts are at least one, times above zero, the rate a share."""
        if min(self.consecutive_failures, self.minimum_requests, self.successes_to_close) < 1:
            raise ValueError("circuit breaker: counts are at least 1")
        times = (self.window_seconds, self.open_seconds, self.longest_retry_after_seconds, self.probe_seconds)
        if min(times) <= 0 or self.longest_open_seconds < self.open_seconds or self.throttled_seconds < 0:
            raise ValueError("circuit breaker: times are above 0, longest_open_seconds at least open_seconds")
        if not 0 < self.error_rate <= 1:
            raise ValueError(f"circuit breaker: error_rate is above 0 and at most 1, got {self.error_rate}")
