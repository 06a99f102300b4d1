"""SIGTERM and SIGINT, handled in the event loop: a handler of `signal` could interrupt anything."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stop_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Either signal calls `stop` while the context lasts."""
    events = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        events.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in STOP_SIGNALS:
            events.remove_signal_handler(number)
