"""Ends the processes of this worker when it ends, whatever ended it. A killed one can end nothing itself.

An engine that is left behind keeps the GPU's memory, and holds the port that it has inherited. The kernel's own means
(PR_SET_PDEATHSIG) ends a child when the thread that started it ends, which need not be the end of the process.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import select
import signal
import threading
import time
from collections.abc import Callable

#: Between two looks at the parent, where the kernel has no pidfd_open(2).
LOOK_SECONDS = 0.5


@functools.cache  # hooks of a fork cannot be taken back: one is enough
def end_with_this_process() -> None:
    """Makes each process that is forked from now on, also by a forked one, end when the one that forked it has."""
    forking = [os.getpid()]

    def remember() -> None:
        forking[0] = os.getpid()

    os.register_at_fork(before=remember, after_in_child=lambda: end_with(forking[0]))


def end_as_a_spawned_process() -> None:
    """Makes this process, which multiprocessing has spawned, end with its parent, and its own children with it."""
    end_with_this_process()

    def watch() -> None:
        # While the main module is imported, multiprocessing has not announced the parent yet.
        while (parent := multiprocessing.parent_process()) is None:
            time.sleep(LOOK_SECONDS)
        _end_after(parent.pid or 0)

    _in_background(watch)


def end_with(parent: int) -> None:
    """Kills this process once it is no child of `parent` any more: also if that was so before."""
    _in_background(lambda: _end_after(parent))


def _in_background(watch: Callable[[], None]) -> None:
    threading.Thread(target=watch, name="ends-with-its-parent", daemon=True).start()


def _end_after(parent: int) -> None:
    _wait_for_the_end_of(parent)
    os.kill(os.getpid(), signal.SIGKILL)


def _wait_for_the_end_of(parent: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        descriptor = os.pidfd_open(parent)
        # The number may be another process's by now; then this one has another parent already.
        if os.getppid() == parent:
            end = select.poll()
            end.register(descriptor, select.POLLIN)
            end.poll()
        os.close(descriptor)
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
