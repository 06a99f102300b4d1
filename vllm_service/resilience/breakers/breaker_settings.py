"""The settings of circuit breakers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class BreakerSettings:
    """Settings for when a breaker opens and closes."""

    #: So many failures in a row open it.
    consecutive_failures: int = 5
    #: The share of failures in the window that opens it.
    error_rate: float = 0.5
    window_seconds: float = 30.0
    #: With fewer requests in the window the share is not looked at.
    minimum_requests: int = 20
    #: How long it is open at first; each probe that fails doubles this, up to `longest_open_seconds`.
    open_seconds: float = 10.0
    longest_open_seconds: float = 300.0
    #: The longest Retry-After that is obeyed.
    longest_retry_after_seconds: float = 3600.0
    #: So many probes in a row that succeed close it.
    successes_to_close: int = 2
    #: A probe without a result after so long is taken for lost; longer than any first byte may take.
    probe_seconds: float = 150.0
    #: Nothing but 429s for so long, and at least `consecutive_failures` of them, open it.
    throttled_seconds: float = 60.0
    #: Whether organisations are told apart, see offer_breaker.py. False where all requests are one caller's.
    by_organisation: bool = True

    def __post_init__(self) -> None:
        """Raises ValueError for a count below 1, a time that is not positive, or a rate that is not a share."""
        if min(self.consecutive_failures, self.minimum_requests, self.successes_to_close) < 1:
            raise ValueError("circuit breaker: the counts must be at least 1")
        times = (self.window_seconds, self.open_seconds, self.longest_retry_after_seconds, self.probe_seconds)
        if min(times) <= 0 or self.longest_open_seconds < self.open_seconds or self.throttled_seconds < 0:
            raise ValueError("circuit breaker: times must be above 0, longest_open_seconds at least open_seconds")
        if not 0 < self.error_rate <= 1:
            raise ValueError(f"circuit breaker: error_rate must be above 0 and at most 1, got {self.error_rate}")
