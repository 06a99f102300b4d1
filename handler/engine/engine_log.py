"""Remembers why a process of the engine did not start, which vLLM only writes to its log there.

A forked process inherits the handler, and with it the file that this process reads. In a spawned one there is no
handler, and the cause stays in the log.
"""

from __future__ import annotations

import logging
import os
import tempfile
from types import TracebackType

# vLLM's root logger, and the words of every record about a process that could not start.
LOGGER = "vllm"
WORDS = "failed to start"
MAX_RECORD_BYTES = 4000


class EngineLog(logging.Handler):
    """Listens to vLLM's log while the context lasts."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the context, and with each process
        self._written = False

    def __enter__(self) -> EngineLog:
        logging.getLogger(LOGGER).addHandler(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        logging.getLogger(LOGGER).removeHandler(self)
        self._file.close()

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps the error of the first such record of this process."""
        if self._written or not record.exc_info or WORDS not in record.getMessage():
            return
        self._written = True
        error = record.exc_info[1]
        text = f"{type(error).__name__}: {error}\0"
        os.write(self._file.fileno(), text.encode("utf-8", errors="replace")[:MAX_RECORD_BYTES])

    def cause(self) -> str | None:
        """Returns the first error as `Type: message`, or None. A worker's comes before that of the core above it."""
        text = os.pread(self._file.fileno(), 10 * MAX_RECORD_BYTES, 0).decode("utf-8", errors="replace")
        return text.partition("\0")[0] or None
