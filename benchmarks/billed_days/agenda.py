"""A clock that is driven: it stands at the time of the event that happens."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

Action = Callable[[], None]


class Agenda:
    """Events by time, in seconds since 1970. Calling it returns the time, so that it can be an emulator's clock."""

    def __init__(self, begins_at: float) -> None:
        self._now = begins_at
        self._events: list[tuple[float, int, Action]] = []
        self._numbers = itertools.count()

    def __call__(self) -> float:
        """Returns the time."""
        return self._now

    def at(self, seconds: float, action: Action) -> None:
        """Adds an event. One that is in the past happens now; of two at once the earlier added is first."""
        heapq.heappush(self._events, (max(seconds, self._now), next(self._numbers), action))

    def after(self, seconds: float, action: Action) -> None:
        """Adds an event that happens so many seconds from now."""
        self.at(self._now + seconds, action)

    def run_until(self, seconds: float) -> None:
        """Lets everything happen that is due by then, and leaves the clock there."""
        while self._events and self._events[0][0] <= seconds:
            self._now, _, action = heapq.heappop(self._events)
            action()
        self._now = seconds
