"""The lease by which one of all workers on a volume downloads. It needs no lock daemon, equal clocks or cleaning up.

A lease is a file named by its number, which never changes once it is there: 000001, 000002, ... The highest number
holds. To take the lease is to create the next number, which the file system allows exactly one worker. So of many that
find the same holder dead one follows, and a holder that was paused and wakes up sees a higher number than its own. Each
holder writes a heartbeat to a file of its own. A watcher judges it by its own clock: a heart has stopped when what it
wrote has not changed while the watcher watched. Modification times of other machines are never used.

Where two workers take each other for dead, both download, each into its own directory, and publish the same verified
files (`staging`): the lease saves traffic, it does not guard the content.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from handler.volume.path import VolumePath

logger = logging.getLogger(__name__)

NUMBER = re.compile(r"[0-9]{1,18}")
ATTEMPT = re.compile(r"[0-9a-f]{32}")
# A bound for what is read of a lease or a heartbeat.
MAX_BYTES = 64 << 10
NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)


@dataclass(frozen=True)
class Pace:
    """The pace of heartbeats and of watching, in seconds."""

    heartbeat_seconds: float = 2.0
    #: How long a heart may stand still.
    stale_seconds: float = 20.0
    #: How often a watcher looks.
    poll_seconds: float = 0.5


class LeaseLost(Exception):
    """A higher number is there: another worker took this one for dead."""


class Lease:
    """A lease of this worker, until `release` or until another worker takes the next number."""

    def __init__(self, directory: VolumePath, number: int, attempt: str) -> None:
        self.number, self.attempt = number, attempt
        self._directory = directory
        self._beats = 0
        self._writing = threading.Lock()

    def check(self) -> None:
        """Raises LeaseLost when there is a successor."""
        if highest(self._directory) > self.number:
            raise LeaseLost(f"another worker has taken over from attempt {self.attempt}")

    def beat(self, news: dict[str, Any] | None = None, *, released: bool = False) -> None:
        """Writes a heartbeat, with news for the watchers."""
        with self._writing:
            self._beats += 1
            text = json.dumps({"beats": self._beats, "released": released, "news": news or {}})
            path = self._directory / f"{self.attempt}.beat"
            temporary = self._directory / f"{self.attempt}.tmp"
            with temporary.create_anew() as file:
                file.write(text.encode())
            temporary.rename(path)

    def release(self) -> None:
        """Frees the lease at once for the next worker, and removes what the predecessors have left."""
        self.beat(released=True)
        kept = {_name(self.number), f"{self.attempt}.beat"}
        for name in self._directory.names():
            is_older = bool(NUMBER.fullmatch(name)) and int(name) < self.number
            if is_older or (name.endswith(".beat") and name not in kept and highest(self._directory) <= self.number):
                (self._directory / name).unlink()


@contextmanager
def beating(lease: Lease, pace: Pace, news: Callable[[], dict[str, Any]]) -> Iterator[threading.Event]:
    """Beats until the block ends, then releases. The event that it gives is set once the lease is lost."""
    lost, ended = threading.Event(), threading.Event()

    def beat() -> None:
        while not ended.wait(pace.heartbeat_seconds):
            try:
                lease.check()
                lease.beat(news())
            except LeaseLost:
                lost.set()
                return
            except OSError as error:
                logger.warning("the heartbeat of a download cannot be written: %s", error)

    thread = threading.Thread(target=beat, name="model-download-heartbeat", daemon=True)
    thread.start()
    try:
        yield lost
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(OSError):
            lease.release()


class Watcher:
    """Watches a directory of leases and takes one as soon as no live worker holds it."""

    def __init__(self, directory: VolumePath, pace: Pace, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory, self._pace, self._clock = directory, pace, clock
        self._seen: tuple[int, int] | None = None
        self._seen_since = clock()
        self.beats_seen = 0
        self.news: dict[str, Any] = {}

    def try_take(self) -> Lease | None:
        """Returns the lease, or None while another's heart beats; then `news` holds what its holder wrote last."""
        number = highest(self._directory)
        beat = _beat(self._directory, number) if number else {}
        if not number or beat.get("released"):
            return _create(self._directory, number + 1)
        beats, news = beat.get("beats"), beat.get("news")
        seen = (number, beats if isinstance(beats, int) else 0)
        self.news = news if isinstance(news, dict) else {}
        if seen != self._seen:
            self._seen, self._seen_since = seen, self._clock()
            self.beats_seen += 1
        elif self._clock() - self._seen_since > self._pace.stale_seconds:
            logger.warning("the worker that downloads has not moved for %.0f s: taking over", self._pace.stale_seconds)
            return _create(self._directory, number + 1)
        return None


def highest(directory: VolumePath) -> int:
    """Returns the number of the lease that holds, dead or alive; 0 where there was never one."""
    try:
        return max((int(name) for name in directory.names() if NUMBER.fullmatch(name)), default=0)
    except FileNotFoundError:
        return 0


def _create(directory: VolumePath, number: int) -> Lease | None:
    """Creates a number, which exactly one worker can do; returns None for the others."""
    directory.make()
    attempt = uuid.uuid4().hex
    lease = Lease(directory, number, attempt)
    lease.beat()  # first, so that no watcher finds a lease without a heart
    content = json.dumps({"attempt": attempt, "host": socket.gethostname(), "process": os.getpid()})
    if _create_exclusively(directory / _name(number), content, attempt):
        return lease
    (directory / f"{attempt}.beat").unlink()
    return None


def _create_exclusively(path: VolumePath, content: str, attempt: str) -> bool:
    """Returns whether this worker created the file."""
    # A hard link is atomic on network file systems too and brings its content along; the second best is O_EXCL.
    temporary = path.with_name(f"{attempt}.new")
    with temporary.create() as file:
        file.write(content.encode())
    try:
        temporary.hard_link(path)
    except FileExistsError:
        return _read(path).get("attempt") == attempt  # a network may lose the answer to a link that was made
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        return create_without_links(path, content)
    finally:
        temporary.unlink()
    return True


def create_without_links(path: VolumePath, content: str) -> bool:
    """Creates the file on a file system without hard links. A reader in between finds an empty lease, and waits."""
    try:
        with path.create() as file:
            file.write(content.encode())
    except FileExistsError:
        return False
    return True


def _beat(directory: VolumePath, number: int) -> dict[str, Any]:
    """Returns the last heartbeat of the holder of a number."""
    attempt = str(_read(directory / _name(number)).get("attempt", ""))
    return _read(directory / f"{attempt}.beat") if ATTEMPT.fullmatch(attempt) else {}


def _name(number: int) -> str:
    return f"{number:06d}"


def _read(path: VolumePath) -> dict[str, Any]:
    """Returns a JSON object; an empty one for whatever cannot be read."""
    try:
        # A new lease has its temporary name too for a moment, and after a crash for longer.
        document = json.loads(path.read(MAX_BYTES, most_links=2))
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
