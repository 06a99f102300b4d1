"""Rate limits: so many requests of an operation in a window of time, so many at once."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from runpod_emulator.errors import TooManyRequests
from runpod_emulator.settings import RateLimit


class RateLimiter:
    """A sliding window per operation. An operation without a limit is let by."""

    def __init__(self, limits: Mapping[str, RateLimit], window_seconds: float, clock: Callable[[], float]) -> None:
        self._gates = {operation: _Gate(limit, window_seconds) for operation, limit in limits.items()}
        self._clock = clock

    @contextmanager
    def admit(self, operation: str) -> Iterator[None]:
        """For as long as the request is under way; raises TooManyRequests, and then nothing is counted."""
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
            raise TooManyRequests(f"{operation}: {self._limit.concurrent} requests are under way already", 1)
        if len(self._entered) >= self._limit.per_window:
            wait = math.ceil(self._entered[0] + self._window - now) if self._entered else math.ceil(self._window)
            raise TooManyRequests(
                f"{operation}: more than {self._limit.per_window} requests in {self._window:g} s", max(1, wait)
            )
        self._entered.append(now)
        self.running += 1
