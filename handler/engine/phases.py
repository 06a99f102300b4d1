"""Says in the log what each phase of the start is, while it begins, and tells whoever counts what it took."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

ObservePhase = Callable[[str, float], None]  # the phase's name and its seconds


@contextmanager
def phase(name: str, title: str, observe: ObservePhase | None = None) -> Iterator[None]:
    """One phase of the start; a phase that fails says nothing of its end."""
    start = time.perf_counter()
    logger.info("%s ...", title)
    yield
    seconds = time.perf_counter() - start
    logger.info("%s took %.1f s", title, seconds)
    if observe:
        observe(name, seconds)
