"""Reads weight files into the kernel's page cache while vLLM is still being imported, so that loading finds them there.

A network volume gives one reader a fraction of its bandwidth, so several read at once, in the order of vLLM's loading.
The amount is bounded by free memory, so that nothing useful is pushed out of it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from handler.settings import StartSettings
from handler.start.timeline import Timeline
from handler.volume.path import VolumePath

logger = logging.getLogger(__name__)

READERS = 8
PIECE_BYTES = 16 << 20
# The share of free memory for vLLM's own buffers and the importing.
KEPT_FREE_SHARE = 0.2
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.gguf")


@dataclass(frozen=True)
class Piece:
    """A part of a file, in bytes."""

    path: Path
    offset: int
    size: int


class ReadAhead:
    """Reads the weights under a directory in the background, from its creation until `stop`."""

    def __init__(self, model_dir: Path, budget_bytes: int, readers: int = READERS) -> None:
        """Starts to read at most `budget_bytes`. A file that cannot be read is left to vLLM, which reports why."""
        self.bytes_read = 0
        self.seconds = 0.0
        self._stopped = threading.Event()
        self._count = threading.Lock()
        self._pieces = pieces_of(weight_files(model_dir), budget_bytes)
        self.began_at = time.monotonic()
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix="read-ahead")
        self._work = [self._pool.submit(self._read_pieces) for _ in range(readers)]

    def stop(self) -> None:
        """Stops the reading, and returns when every reader has ended."""
        self._stopped.set()
        self.finish()

    def finish(self) -> None:
        """Returns when everything is read."""
        wait(self._work)
        self._pool.shutdown()
        for work in self._work:
            if error := work.exception():
                logger.warning("read-ahead gave up: %s", type(error).__name__)

    def _read_pieces(self) -> None:
        buffer = bytearray(PIECE_BYTES)
        while not self._stopped.is_set() and (piece := self._next()):
            done = _read(piece, buffer)
            with self._count:
                self.bytes_read += done
                self.seconds = time.monotonic() - self.began_at

    def _next(self) -> Piece | None:
        with self._count:
            return next(self._pieces, None)


@contextmanager
def reading(model_dir: Path | None, settings: StartSettings, timeline: Timeline) -> Iterator[None]:
    """Reads ahead while the context lasts, if the model is on the disk already and there is memory for it."""
    budget_bytes = memory_budget_bytes() if settings.read_ahead and model_dir and model_dir.is_dir() else 0
    if not budget_bytes or model_dir is None:
        yield
        return
    ahead = ReadAhead(model_dir, budget_bytes)
    try:
        yield
    finally:
        ahead.stop()
        timeline.add("read_ahead", ahead.began_at, ahead.seconds)
        logger.info("read %.2f GB of weights ahead in %.1f s", ahead.bytes_read / 1e9, ahead.seconds)


def weight_files(model_dir: Path) -> list[Path]:
    """Returns the weights in the order of their names, which is the order of their shards."""
    for pattern in WEIGHTS:  # vLLM loads one kind, safetensors first
        if files := sorted(model_dir.glob(pattern)):
            return files
    return []


def pieces_of(files: Iterable[Path], budget_bytes: int) -> Iterator[Piece]:
    """Yields the files cut into pieces, as far as the budget goes."""
    for path in files:
        with contextlib.suppress(OSError):
            size = path.stat().st_size
            for offset in range(0, min(size, budget_bytes), PIECE_BYTES):
                yield Piece(path, offset, min(PIECE_BYTES, size - offset))
            budget_bytes -= size
        if budget_bytes <= 0:
            return


def free_bytes(meminfo: str, cgroup_max: str | None = None, cgroup_current: str | None = None) -> int:
    """Returns how much may be read ahead: all but a fifth of the memory that the machine or the container has to spare.

    meminfo: /proc/meminfo. cgroup_max, cgroup_current: the container's memory.max and memory.current (cgroups v2).
    """
    lines = dict(line.split(":", 1) for line in meminfo.splitlines() if ":" in line)
    free = int(lines["MemAvailable"].split()[0]) * 1024
    if cgroup_max and cgroup_current and cgroup_max.strip() != "max":
        free = min(free, int(cgroup_max) - int(cgroup_current))
    return max(0, int(free * (1 - KEPT_FREE_SHARE)))


def memory_budget_bytes() -> int:
    """Returns `free_bytes` of this machine; 0 where it is unknown."""
    try:
        cgroup = [Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current")]
        limits = [path.read_text(encoding="utf-8") if path.exists() else None for path in cgroup]
        return free_bytes(Path("/proc/meminfo").read_text(encoding="utf-8"), *limits)
    except (OSError, KeyError, ValueError):
        return 0


def _read(piece: Piece, buffer: bytearray) -> int:
    """Reads a piece; returns how many bytes were not in the page cache yet, judged by its ends."""
    if is_cached(piece):
        return 0
    with VolumePath.anywhere(piece.path).open_file() as file:  # no FIFO, which would never end
        done = 0
        view = memoryview(buffer)
        while done < piece.size:
            got = os.preadv(file.fileno(), [view[: piece.size - done]], piece.offset + done)
            if not got:
                break
            done += got
        return done


def is_cached(piece: Piece) -> bool:
    """Returns whether the piece begins and ends in the page cache."""
    # RWF_NOWAIT reads nothing that would have to be fetched.
    byte = bytearray(1)
    ends = (piece.offset, piece.offset + piece.size - 1)
    with VolumePath.anywhere(piece.path).open_file() as file:
        try:
            return all(os.preadv(file.fileno(), [byte], offset, os.RWF_NOWAIT) == 1 for offset in ends)
        except BlockingIOError:  # it would have to be fetched
            return False
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:  # unknown on this file system
                return False
            raise
