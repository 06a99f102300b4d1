"""Says in the log what each phase of the start is, while it begins, and what it took."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)


@contextmanager
def phase(title: str) -> Iterator[None]:
    """One phase of the start; a phase that fails says nothing of its end."""
    start = time.perf_counter()
    logger.info("%s ...", title)
    yield
    logger.info("%s took %.1f s", title, time.perf_counter() - start)
