"""The progress of a download: bytes, rate and the time left; and the line that is logged now and then."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

logger = logging.getLogger(__name__)

GIB = 1 << 30
LOG_EVERY_SECONDS = 5.0


@dataclass(frozen=True)
class Progress:
    """A snapshot of a download."""

    model: str
    done_bytes: int
    total_bytes: int
    #: Of this attempt, since it began.
    bytes_per_second: float
    #: False for a download of another worker.
    here: bool = True

    @property
    def seconds_left(self) -> float | None:
        """The time left at the rate so far; None while there is no rate."""
        return (self.total_bytes - self.done_bytes) / self.bytes_per_second if self.bytes_per_second > 0 else None

    def __str__(self) -> str:
        """Returns the line for a person."""
        share = 100 * self.done_bytes / self.total_bytes if self.total_bytes else 100.0
        left = "" if self.seconds_left is None else f", {self.seconds_left:.0f} s left"
        doing = "downloading" if self.here else "another worker downloads"
        size = f"{self.done_bytes / GIB:.2f} of {self.total_bytes / GIB:.2f} GiB ({share:.0f} %)"
        return f"{doing} {self.model}: {size}, {self.bytes_per_second / 1e6:.1f} MB/s{left}"


Report = Callable[[Progress], None]


class Meter:
    """Counts bytes from several threads."""

    def __init__(self, model: str, total_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._model, self._total_bytes, self._clock = model, total_bytes, clock
        self._done_bytes = self._received_bytes = 0
        self._start = clock()
        self._lock = threading.Lock()

    def found(self, size_bytes: int) -> None:
        """Counts bytes that were there before: they are done, and have no part in the rate."""
        with self._lock:
            self._done_bytes += size_bytes

    def received(self, size_bytes: int) -> None:
        """Counts bytes from the hub. A negative number takes back what has to come again."""
        with self._lock:
            self._done_bytes += size_bytes
            self._received_bytes += size_bytes

    def progress(self) -> Progress:
        """Returns a snapshot."""
        with self._lock:
            seconds = self._clock() - self._start
            rate = self._received_bytes / seconds if seconds > 0 else 0.0
            return Progress(self._model, self._done_bytes, self._total_bytes, max(rate, 0.0))


class LogNowAndThen:
    """A `Report` that writes a line to the log, at most every few seconds."""

    def __init__(self, every_seconds: float = LOG_EVERY_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_seconds, self._clock = every_seconds, clock
        self._last: float | None = None

    def __call__(self, progress: Progress) -> None:
        """Logs the progress unless it was logged a short time ago."""
        now = self._clock()
        if self._last is None or now - self._last >= self._every_seconds:
            self._last = now
            logger.info("%s", progress)
