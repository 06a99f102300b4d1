"""Rate limits: how many requests of one operation are admitted in a sliding window, and how many at once."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from runpod_emulator.errors import TooManyRequests
from runpod_emulator.settings import RateLimit


class RateLimiter:
    """A sliding window per operation. An operation without a limit is always admitted."""

    def __init__(self, limits: Mapping[str, RateLimit], window_seconds: float, clock: Callable[[], float]) -> None:
        self._gates = {operation: _Gate(limit, window_seconds) for operation, limit in limits.items()}
        self._clock = clock

    @contextmanager
    def admit(self, operation: str) -> Iterator[None]:
        """Counts a request for as long as the context is open. Raises TooManyRequests; then nothing is counted."""
        gate = self._gates.get(operation)
        if gate is None:
            yield
            return
        gate.enter(operation, self._clock())
        try:
            yield
        finally:
            gate.running -= 1


class _Gate:
    def __init__(self, limit: RateLimit, window_seconds: float) -> None:
        self.running = 0
        self._limit = limit
        self._window = window_seconds
        self._entered: deque[float] = deque()

    def enter(self, operation: str, now: float) -> None:
        while self._entered and self._entered[0] <= now - self._window:
            self._entered.popleft()
        if self.running >= self._limit.concurrent:
            # When a running request will end is not known: 1 s is the least that Retry-After can say.
            raise TooManyRequests(f"{operation}: {self._limit.concurrent} requests are under way already", 1)
        if len(self._entered) >= self._limit.per_window:
            # There is room again when the oldest request leaves the window; a limit of 0 has no oldest request.
            wait = math.ceil(self._entered[0] + self._window - now) if self._entered else math.ceil(self._window)
            raise TooManyRequests(
                f"{operation}: more than {self._limit.per_window} requests in {self._window:g} s", max(1, wait)
            )
        self._entered.append(now)
        self.running += 1
