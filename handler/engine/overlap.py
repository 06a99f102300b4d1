"""What shortens a start: no garbage collection while modules are imported, and work beside the engine core."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def collection_paused() -> Iterator[None]:
    """Importing vLLM makes millions of objects that stay: looking for garbage among them took a quarter of the time.

    What was imported is frozen at the end, so that neither this process nor a forked one walks through it again.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def after_the_next_fork(work: Callable[[], None]) -> None:
    """Runs `work` in a thread of this process once it has forked: before, the child could inherit a lock for ever held.

    A process that spawns instead never runs it: `work` must be something that would be done later anyway.
    """
    pending = [work]

    def start() -> None:
        if pending:
            threading.Thread(target=pending.pop(), name="beside-the-engine-core", daemon=True).start()

    os.register_at_fork(after_in_parent=start)
