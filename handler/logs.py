"""The worker's log: one line per record, as text for a person or as JSON for a machine, with the id of its job."""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from contextvars import ContextVar

from handler.line_writer import unblocked

# Set in a job's own task, so that every line logged on its behalf carries its id.
current_job: ContextVar[str | None] = ContextVar("current_job", default=None)


class JsonFormatter(logging.Formatter):
    """Writes `{"time", "level", "logger", "message", "job"}`. Messages are the worker's own and hold no prompt."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns one JSON object on one line; an exception's traceback is a field of it."""
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
    """Writes a line for a person."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the usual line with the job's id at its end."""
        line = super().format(record)
        return f"{line} [job {job}]" if (job := current_job.get()) else line


def never_wait_for_stderr() -> None:
    """Makes everything that this process writes to sys.stderr wait in memory, with a bound, until it is read."""
    sys.stderr = unblocked(sys.stderr)


def never_wait_for_stdout() -> None:
    """Does the same for sys.stdout, to which the runpod SDK logs. Not for a command whose result is written there."""
    sys.stdout.flush()
    sys.stdout = unblocked(sys.stdout)


def set_up(level: str, *, as_json: bool) -> None:
    """Sends the log to stderr; other libraries log from WARNING on. Nothing waits for a reader of stderr after it."""
    text = TextFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    never_wait_for_stderr()
    output = logging.StreamHandler(sys.stderr)
    output.setFormatter(JsonFormatter() if as_json else text)
    logging.basicConfig(handlers=[output])
    logging.getLogger("handler").setLevel(level.upper())
    # vLLM and PyTorch warn about one another; a user of the worker can change neither.
    warnings.filterwarnings("ignore", category=FutureWarning)
