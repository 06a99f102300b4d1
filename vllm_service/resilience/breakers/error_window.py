"""Counts of requests over the last seconds."""

from __future__ import annotations

from typing import Self

SLICES = 10


class ErrorWindow:
    """Counts requests and failures over the last `seconds`, in ten slices of time. A clock that goes back clears it.

    The oldest slice is dropped as a whole, so the window is up to a tenth shorter than `seconds`.
    """

    def __init__(self, seconds: float) -> None:
        self._slice_seconds = seconds / SLICES
        # The number of the current slice, counted from the clock's zero; its counts lie at this number modulo SLICES.
        self._slice = 0
        self._answered = [0] * SLICES
        self._failed = [0] * SLICES
        #: The sums over all slices: requests that ended, and those of them that failed.
        self.answered = 0
        self.failed = 0

    def add(self, now_seconds: float, *, failed: bool) -> None:
        """Counts a request that has ended."""
        number = int(now_seconds / self._slice_seconds)
        if number != self._slice:
            self._move_to(number)
        index = number % SLICES
        self._answered[index] += 1
        self.answered += 1
        if failed:
            self._failed[index] += 1
            self.failed += 1

    def failed_by(self, now_seconds: float) -> int:
        """Returns the failures that are still in the window."""
        number = int(now_seconds / self._slice_seconds)
        if number != self._slice:
            self._move_to(number)
        return self.failed

    def clear(self) -> None:
        """Sets all counts to 0."""
        self._answered = [0] * SLICES
        self._failed = [0] * SLICES
        self.answered = 0
        self.failed = 0

    def of_successes(self) -> Self:
        """Returns a window with the same requests, without those that failed."""
        window = type(self)(self._slice_seconds * SLICES)
        window._slice = self._slice
        window._answered = [all_ - failed for all_, failed in zip(self._answered, self._failed, strict=True)]
        window.answered = self.answered - self.failed
        return window

    def _move_to(self, number: int) -> None:
        if not 0 < number - self._slice < SLICES:
            self.clear()
        else:
            for passed in range(self._slice + 1, number + 1):
                index = passed % SLICES
                self.answered -= self._answered[index]
                self.failed -= self._failed[index]
                self._answered[index] = 0
                self._failed[index] = 0
        self._slice = number
