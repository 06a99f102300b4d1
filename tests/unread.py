"""A pipe that is full and that is not read, as the stderr of a process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def full_pipe() -> Iterator[tuple[int, int]]:
    """Yields the two ends; a write to the second one waits for ever."""
    reading, writing = os.pipe()
    fill(writing)
    try:
        yield reading, writing
    finally:
        os.close(writing)
        os.close(reading)


def fill(descriptor: int) -> None:
    """Writes until nothing more fits."""
    os.set_blocking(descriptor, False)
    try:
        while True:
            os.write(descriptor, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(descriptor, True)
