"""SIGTERM and SIGINT: handled in the event loop while the worker serves, and as an interruption while it loads."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# An orderly end while loading takes two seconds at most.
SWALLOWED_AFTER_SECONDS = 10.0


@contextmanager
def stop_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Calls `stop` on either signal while the context lasts."""
    events = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        events.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in STOP_SIGNALS:
            events.remove_signal_handler(number)


@contextmanager
def sigterm_interrupts_loading(
    told_to_stop: threading.Event, signals: Iterable[signal.Signals] = (signal.SIGTERM,)
) -> Iterator[None]:
    """Ends the process with exit code 0 on SIGTERM, or on other `signals`, while the context lasts: it has no job yet.

    It raises SystemExit, because loading blocks the event loop. Where it does not, both asyncio's loop and uvloop let
    this one exception of a signal handler through. Code that is being imported may swallow it; then a timer ends the
    process.
    """

    def interrupt(number: int, frame: object) -> None:
        # Nothing is logged here: in the middle of a line that is being written a second write is an error, which would
        # take the place of SystemExit.
        told_to_stop.set()
        timer = threading.Timer(SWALLOWED_AFTER_SECONDS, _end_at_once)
        timer.daemon = True
        timer.start()
        raise SystemExit(0)

    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if told_to_stop.is_set():
            logger.info("the signal to stop came while the engine was loading: no job was taken")


def _end_at_once() -> None:
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(0)
