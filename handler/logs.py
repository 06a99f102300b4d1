"""The worker's log: one line each, as text for a person or as JSON for a machine, with the job it is about."""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from contextvars import ContextVar

# Set in a job's own task, so that every line logged on its behalf carries its id.
current_job: ContextVar[str | None] = ContextVar("current_job", default=None)


class JsonFormatter(logging.Formatter):
    """`{"time", "level", "logger", "message", "job"}`; the message is ours and holds no prompt."""

    def format(self, record: logging.LogRecord) -> str:
        """One JSON object on one line; an exception's traceback is a field of it."""
        document: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if job := current_job.get():
            document["job"] = job
        if record.exc_info:
            document["traceback"] = self.formatException(record.exc_info)
        return json.dumps(document, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """A line for a person."""

    def format(self, record: logging.LogRecord) -> str:
        """The usual line, with the job in front of the message."""
        line = super().format(record)
        return f"{line} [job {job}]" if (job := current_job.get()) else line


def set_up(level: str, *, as_json: bool) -> None:
    """Logs to stderr; other libraries speak from WARNING on."""
    text = TextFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    output = logging.StreamHandler(sys.stderr)
    output.setFormatter(JsonFormatter() if as_json else text)
    logging.basicConfig(handlers=[output])
    logging.getLogger("handler").setLevel(level.upper())
    warnings.filterwarnings("ignore", category=FutureWarning)  # vLLM's and PyTorch's own affairs
