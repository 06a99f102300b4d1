"""Standard streams that were closed when the program began, as by `>&-` or some service managers."""

from __future__ import annotations

import os
import sys


def open_closed_streams() -> None:
    """Puts the null device under closed standard streams.

    Else a socket gets such a number: what is written to the stream goes there, and libuv aborts the process.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
            os.set_inheritable(descriptor, True)
    # The interpreter leaves out what was closed when it began.
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
