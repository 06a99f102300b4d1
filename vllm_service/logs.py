"""Formats the log, as text for people or as JSON for machines, and writes it without waiting for its reader.

The access log is observability/access_log.py.
"""

from __future__ import annotations

import io
import logging
import os
import select
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue
from typing import Any

import msgspec

from vllm_service.domain.status import LogState
from vllm_service.domain.timestamps import rfc3339

#: The attribute of a log record that holds named values, set by `extra={FIELDS: {...}}`.
FIELDS = "fields"
#: What waits to be written, at most: about ten seconds of access log at 1,000 requests a second.
MOST_WAITING_BYTES = 4 * 2**20
#: For the last lines, when the process ends. One whose stderr is not read ends all the same.
FLUSH_SECONDS = 1.0
_encode = msgspec.json.Encoder().encode


def configure(level: str, form: str) -> LogWriter:
    """Sends everything that is logged, and all else that is written to sys.stderr, through the writer it returns.

    Tracebacks and warnings of libraries are written there, too. form: `json` or `text`.
    """
    writer = LogWriter(2)
    handler = LogHandler(writer)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    writer.report = handler.dropped_lines
    logging.captureWarnings(True)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    sys.stderr = io.TextIOWrapper(LogStream(writer), "utf-8", "backslashreplace", line_buffering=True)
    return writer


class LogWriter:
    """Writes lines to a file descriptor from a thread of its own: a reader that stops must not stop the event loop.

    Lines are dropped and counted while too much waits, and where they cannot be written at all. The thread begins with
    the first line, and a forked process has one of its own.
    """

    def __init__(self, descriptor: int, most_bytes: int = MOST_WAITING_BYTES) -> None:
        self.descriptor = descriptor
        self._most_bytes = most_bytes
        #: Returns the line that reports how many lines were dropped.
        self.report: Callable[[int], bytes] = b"%d lines of the log were dropped\n".__mod__
        self.dropped = 0
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        # Only what is of this process: the lines that wait in a parent are the parent's to write.
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

    def flush(self, seconds: float = FLUSH_SECONDS) -> bool:
        """Waits until everything is written, but not for longer. Returns whether it is."""
        if self._thread is None or self._stuck_at == self._done_bytes:
            return self._thread is None
        written = threading.Event()
        self._waiting.put(written)
        if not written.wait(seconds):
            self._stuck_at = self._done_bytes
        return written.is_set()

    def status(self) -> LogState:
        """Returns the state that metrics show."""
        return LogState(self._put_bytes - self._done_bytes, self.dropped)

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


class LogHandler(logging.Handler):
    """Formats records in the thread that logs them, since their values may change, and passes them to the writer."""

    def __init__(self, writer: LogWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        """Implements logging.Handler."""
        try:
            self._writer.put(f"{self.format(record)}\n".encode(errors="backslashreplace"))
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Implements logging.Handler: called when the process ends."""
        self._writer.flush()

    def dropped_lines(self, count: int) -> bytes:
        """Returns the line that reports how many lines were dropped."""
        message = "%d lines of the log were dropped: stderr was not read fast enough"
        record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, message, (count,), None)
        return f"{self.format(record)}\n".encode()


class LogStream(io.RawIOBase):
    """The raw stream below sys.stderr: tracebacks and the like reach the writer through it."""

    def __init__(self, writer: LogWriter) -> None:
        super().__init__()
        self._writer = writer

    def writable(self) -> bool:
        """Implements io.RawIOBase."""
        return True

    def write(self, data: Any) -> int:
        """Implements io.RawIOBase."""
        self._writer.put(bytes(data))
        return len(data)

    def fileno(self) -> int:
        """Implements io.RawIOBase."""
        return self._writer.descriptor

    def isatty(self) -> bool:
        """Implements io.RawIOBase."""
        return os.isatty(self._writer.descriptor)


class TextLines(logging.Formatter):
    """Formats `2026-11-21 12:00:00,000 INFO vllm_service.access: request request_id=... status=200`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Returns the message with its known fields, quoted where they hold spaces."""
        pairs = (f"{name}={_word(value)}" for name, value in _fields(record).items() if value is not None)
        return " ".join((super().formatMessage(record), *pairs))


class JsonLines(logging.Formatter):
    """Formats one JSON object per line: time (RFC 3339, UTC), level, logger, message, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line. A traceback is a text in `exception`."""
        line: dict[str, Any] = {
            "time": rfc3339(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _encode(line).decode()


def source_location(error: BaseException) -> str:
    """Returns an error's type and source locations, the innermost first, without its text: that may quote a prompt."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    locations = " < ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    return f"{type(error).__name__} at {locations}"


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = getattr(record, FIELDS, {})
    return fields


def _word(value: object) -> str:
    """Returns the value of `name=value`, as a JSON string where it is empty or would be ambiguous."""
    if isinstance(value, float):
        return f"{value:.12g}"
    text = str(value)
    return text if text and not any(c in ' "=' or c < " " for c in text) else _encode(text).decode()
