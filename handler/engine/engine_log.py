"""Remembers why a process of the engine did not start, which vLLM only writes to its log there.

A forked process inherits the filter, and with it the file that this process reads. In a spawned one there is no filter,
and the cause stays in the log.
"""

from __future__ import annotations

import logging
import os
import tempfile
from types import TracebackType

# Which of vLLM's loggers say that a process could not start, and the words of such a record. Each process configures
# vLLM's loggers anew, which takes the handlers off all of them, but not the filters.
LOGGERS = ("vllm.v1.engine.core", "vllm.v1.executor.multiproc_executor")
WORDS = "failed to start"
MAX_RECORD_BYTES = 4000


class EngineLog(logging.Filter):
    """Listens to vLLM's log while the context lasts, and lets every record through."""

    def __init__(self) -> None:
        super().__init__()
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the context, and with each process
        self._written = False

    def __enter__(self) -> EngineLog:
        for name in LOGGERS:
            logging.getLogger(name).addFilter(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for name in LOGGERS:
            logging.getLogger(name).removeFilter(self)
        self._file.close()

    def filter(self, record: logging.LogRecord) -> bool:
        """Keeps the error of the first such record of this process."""
        if not self._written and record.exc_info and WORDS in record.getMessage():
            self._written = True
            error = record.exc_info[1]
            text = f"{type(error).__name__}: {error}".encode("utf-8", errors="replace")[:MAX_RECORD_BYTES]
            os.write(self._file.fileno(), text + b"\0")
        return True

    def cause(self) -> str | None:
        """Returns the first error as `Type: message`, or None. A worker's comes before that of the core above it."""
        text = os.pread(self._file.fileno(), 10 * MAX_RECORD_BYTES, 0).decode("utf-8", errors="replace")
        return text.partition("\0")[0] or None
