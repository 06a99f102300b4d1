"""How many of the latest requests failed: a sliding window in slices of time, constant work per request."""

from __future__ import annotations

SLICES = 10


class ErrorWindow:
    """Counts over the last `seconds`, a tenth of them more or less. A clock that goes back starts it afresh."""

    def __init__(self, seconds: float) -> None:
        self._slice_seconds = seconds / SLICES
        self._slice = 0
        self._answered = [0] * SLICES
        self._failed = [0] * SLICES
        self.answered = 0
        self.failed = 0

    def add(self, now_seconds: float, *, failed: bool) -> None:
        """One request has ended."""
        number = int(now_seconds / self._slice_seconds)
        if number != self._slice:
            self._move_to(number)
        place = number % SLICES
        self._answered[place] += 1
        self.answered += 1
        if failed:
            self._failed[place] += 1
            self.failed += 1

    def clear(self) -> None:
        """Nothing has happened."""
        self._answered = [0] * SLICES
        self._failed = [0] * SLICES
        self.answered = self.failed = 0

    def _move_to(self, number: int) -> None:
        if not 0 < number - self._slice < SLICES:
            self.clear()
        else:
            for passed in range(self._slice + 1, number + 1):
                place = passed % SLICES
                self.answered -= self._answered[place]
                self.failed -= self._failed[place]
                self._answered[place] = self._failed[place] = 0
        self._slice = number
