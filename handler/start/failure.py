"""Reports a start that failed as one line that machines and people can read."""

from __future__ import annotations

import logging

from handler.errors import WorkerError

logger = logging.getLogger(__name__)


def log_failed_start(error: Exception) -> None:
    """Logs `start_failed` with the error's JSON, which names variable, cause and remedy, and whether a retry may help.

    The traceback follows only where the error is none of the worker's own.
    """
    if isinstance(error, WorkerError):
        logger.error("start_failed %s", error.to_json_text())
        return
    unexpected = WorkerError(f"internal error of the worker: {type(error).__name__}")
    logger.error("start_failed %s", unexpected.to_json_text(), exc_info=error)
