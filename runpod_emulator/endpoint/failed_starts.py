"""Counts the workers that ended before they took a job, and spaces the next starts further and further apart."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from runpod_emulator.settings import EndpointSettings


class FailedStarts:
    """The failed starts in a row. One worker that becomes ready ends the row."""

    def __init__(self, settings: EndpointSettings, clock: Callable[[], float]) -> None:
        self.in_a_row = 0
        self._settings = settings
        self._clock = clock
        self._exit_code = 0
        #: Where the latest worker has written why.
        self._log = ""
        #: No worker is started before this time of the clock.
        self._not_before = -math.inf

    @property
    def seconds_to_next(self) -> float:
        """How long no worker is started yet; 0 where one may be."""
        return max(0.0, self._not_before - self._clock())

    def add(self, exit_code: int, log: str) -> None:
        """Counts a worker that has ended before its first job-take. Each further one doubles the pause, to a bound."""
        self.in_a_row += 1
        self._exit_code = exit_code
        self._log = log
        settings = self._settings
        doubled = settings.restart_delay_seconds * 2.0 ** min(self.in_a_row - 1, 64)
        self._not_before = self._clock() + min(doubled, settings.longest_restart_delay_seconds)

    def end(self) -> None:
        """Ends the row: a worker has become ready."""
        self.in_a_row = 0
        self._not_before = -math.inf

    @property
    def fails_jobs(self) -> bool:
        """True while waiting would not help: several starts have failed, and no other is due yet."""
        return self.in_a_row >= self._settings.failed_starts_until_jobs_fail and self.seconds_to_next > 0

    def message(self) -> str:
        """Returns what happens, for logs, jobs and /health."""
        seconds = self.seconds_to_next
        due = f"The next one is started in {seconds:.0f} s, when there is a job." if seconds else "One may start now."
        workers = "the last worker" if self.in_a_row == 1 else f"the last {self.in_a_row} workers"
        return (
            f"No worker starts: {workers} ended before taking a job, with exit code {self._exit_code}; {self._log} "
            f"says why. {due}"
        )

    def document(self) -> dict[str, Any]:
        """Returns the member of /health; empty without failed starts."""
        if not self.in_a_row:
            return {}
        return {
            "failedStarts": {
                "inARow": self.in_a_row,
                "exitCode": self._exit_code,
                "nextStartInSeconds": round(self.seconds_to_next, 1),
                "message": self.message(),
            }
        }
