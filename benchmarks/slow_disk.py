"""A disk as slow as a network volume: this process and what it starts may read so many bytes a second (cgroups).

Needs root and the block-I/O controller, of either version; where they are missing nothing is throttled, and it says so.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

V1, V2 = Path("/sys/fs/cgroup/blkio"), Path("/sys/fs/cgroup")


@contextmanager
def throttled(directory: Path, bytes_per_second: int) -> Iterator[bool]:
    """Whether reading from the disk under `directory` is throttled while the context lasts."""
    device = directory.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    if V1.is_dir():
        parent, limit = V1, ("blkio.throttle.read_bps_device", f"{number} {bytes_per_second}")
    else:
        parent, limit = V2, ("io.max", f"{number} rbps={bytes_per_second}")
    group = parent / f"benchmark-{uuid.uuid4().hex[:8]}"
    try:
        group.mkdir()
        (group / limit[0]).write_text(limit[1])
        (group / "cgroup.procs").write_text(str(os.getpid()))
    except OSError:
        with contextlib.suppress(OSError):
            group.rmdir()
        yield False
        return
    try:
        yield True
    finally:
        (parent / "cgroup.procs").write_text(str(os.getpid()))
        with contextlib.suppress(OSError):  # a process that ends late keeps it
            group.rmdir()
