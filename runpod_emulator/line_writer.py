"""Writes what is logged without waiting for its reader: a full pipe must not stop the event loop."""

from __future__ import annotations

import atexit
import io
import os
import select
import sys
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TextIO

#: What waits to be written, at most; lines beyond it are dropped and counted.
MOST_WAITING_BYTES = 4 * 2**20
#: For the last lines, when the process ends. One whose output is not read ends all the same.
FLUSH_SECONDS = 1.0


def never_wait_for_stderr() -> None:
    """Makes everything that this process writes to sys.stderr wait in memory, with a bound, until it is read."""
    writer = LineWriter(sys.stderr.fileno())
    atexit.register(writer.flush)
    sys.stderr = io.TextIOWrapper(LineStream(writer), "utf-8", "backslashreplace", line_buffering=True)


def is_read(stream: TextIO) -> bool:
    """Returns whether a stream takes a page of text within a second; a full pipe would hold the end of the process."""
    return bool(select.select((), (stream,), (), FLUSH_SECONDS)[1])


def open_closed_streams() -> None:
    """Puts the null device under closed standard streams.

    Else a socket gets such a number: what is written to the stream goes there, and libuv aborts the process.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
            os.set_inheritable(descriptor, True)
    # The interpreter leaves out what was closed when it began.
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


class LineWriter:
    """Writes lines to a file descriptor from a thread of its own, which a forked process has anew."""

    def __init__(self, descriptor: int, most_bytes: int = MOST_WAITING_BYTES) -> None:
        self.descriptor = descriptor
        self.dropped = 0
        #: Returns the line that reports how many were dropped.
        self.report: Callable[[int], bytes] = b"%d lines were dropped: they were not read fast enough\n".__mod__
        self._most_bytes = most_bytes
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        # The lines that wait in a parent are the parent's to write.
        self._lock = threading.RLock()
        self._waiting: SimpleQueue[bytes | threading.Event] = SimpleQueue()
        self._next: bytes | threading.Event | None = None
        self._thread: threading.Thread | None = None
        self._put_bytes = self._done_bytes = 0
        self._reported = self.dropped
        #: What was done when a flush was last given up; another one does not wait where nothing has moved since.
        self._stuck_at = -1

    def put(self, line: bytes) -> None:
        """Takes a line, with its line break. Returns at once."""
        with self._lock:
            if self._put_bytes - self._done_bytes > self._most_bytes:
                self.dropped += 1
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()
            self._put_bytes += len(line)
        self._waiting.put(line)

    def flush(self, seconds: float = FLUSH_SECONDS) -> None:
        """Waits until everything is written, but not for longer."""
        if self._thread is None or self._stuck_at == self._done_bytes:
            return
        written = threading.Event()
        self._waiting.put(written)
        if not written.wait(seconds):
            self._stuck_at = self._done_bytes

    def _run(self) -> None:
        while True:
            batch = self._batch()
            if isinstance(batch, threading.Event):
                batch.set()
                continue
            if not self._is_written(batch):
                with self._lock:
                    self.dropped += batch.count(b"\n")
            self._done_bytes += len(batch)
            dropped = self.dropped - self._reported
            if dropped and self._waiting.empty() and self._is_written(self.report(dropped)):
                self._reported += dropped

    def _batch(self) -> bytes | threading.Event:
        """Returns the next lines: as many as one write takes without lines of other processes in between."""
        batch = self._next or self._waiting.get()
        self._next = None
        while not isinstance(batch, threading.Event):
            try:
                self._next = self._waiting.get_nowait()
            except Empty:
                break
            if isinstance(self._next, threading.Event) or len(batch) + len(self._next) > select.PIPE_BUF:
                break
            batch += self._next
            self._next = None
        return batch

    def _is_written(self, batch: bytes) -> bool:
        """Writes all of it, however long that takes. Returns False where the reader is gone or the disk is full."""
        while batch:
            try:
                batch = batch[os.write(self.descriptor, batch) :]
            except BlockingIOError:  # another process has made it non-blocking
                select.select((), (self.descriptor,), ())
            except OSError:
                return False
        return True


class LineStream(io.RawIOBase):
    """The raw stream below a text stream: tracebacks, warnings and libraries' logs reach the writer through it."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self.writer = writer

    def writable(self) -> bool:
        """Implements io.RawIOBase."""
        return True

    def write(self, data: Any) -> int:
        """Implements io.RawIOBase."""
        self.writer.put(bytes(data))
        return len(data)

    def fileno(self) -> int:
        """Implements io.RawIOBase."""
        return self.writer.descriptor

    def isatty(self) -> bool:
        """Implements io.RawIOBase."""
        return os.isatty(self.writer.descriptor)
