"""A separate volume as slow as a network volume: an ext4 image behind a loop device, throttled by cgroups.

Only the volume is slow, because a worker's packages are on another disk than its weights. It needs root, loop devices
and the block-I/O controller of either cgroup version. Without them there is no volume.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

V1 = Path("/sys/fs/cgroup/blkio")
V2 = Path("/sys/fs/cgroup")


@contextmanager
def slow_volume(size_bytes: int, bytes_per_second: int) -> Iterator[Path | None]:
    """Yields an empty directory whose reads by this process and its children are throttled; None if that fails."""
    with ExitStack() as stack:
        try:
            volume = stack.enter_context(_mounted(size_bytes))
            stack.enter_context(_throttled(volume.stat().st_dev, bytes_per_second))
        except (OSError, subprocess.CalledProcessError):
            yield None
            return
        yield volume


@contextmanager
def _mounted(size_bytes: int) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=Path.home()) as directory:
        image = Path(directory) / "volume.img"
        volume = Path(directory) / "volume"
        volume.mkdir()
        image.touch()
        os.truncate(image, size_bytes)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(volume)], check=True, capture_output=True)
        try:
            yield volume
        finally:
            subprocess.run(["umount", "--lazy", str(volume)], check=True, capture_output=True)


@contextmanager
def _throttled(device: int, bytes_per_second: int) -> Iterator[None]:
    number = f"{os.major(device)}:{os.minor(device)}"
    if V1.is_dir():
        parent = V1
        limit = ("blkio.throttle.read_bps_device", f"{number} {bytes_per_second}")
    else:
        parent = V2
        limit = ("io.max", f"{number} rbps={bytes_per_second}")
    group = parent / f"benchmark-{uuid.uuid4().hex[:8]}"
    group.mkdir()
    try:
        (group / limit[0]).write_text(limit[1])
        (group / "cgroup.procs").write_text(str(os.getpid()))
        yield
    finally:
        (parent / "cgroup.procs").write_text(str(os.getpid()))
        with contextlib.suppress(OSError):  # it cannot be removed while a child process is still in it
            group.rmdir()
