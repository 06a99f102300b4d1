"""Of all workers that share a volume one downloads. Needs no lock daemon, no equal clocks, and nobody to clean up.

A lease is a file named by its number, which never changes once it is there: 000001, 000002, ... The highest number
holds. Taking it means to create the next number, which the file system lets exactly one worker do; so of many who
find the same holder dead one follows, and a holder who was paused and wakes up sees a higher number than its own.
Each holder beats its heart in a file of its own. A watcher judges it by its own clock: a heart stands still when
what it wrote has not changed while the watcher watched. Modification times of other machines are never looked at.

Should two workers hold each other for dead, both download, each into its own directory, and publish the same verified
files (`staging`): the lease saves traffic, it does not guard the content.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)


@dataclass(frozen=True)
class Pace:
    """How often a heart beats, how long it may stand still, and how often a watcher looks; in seconds."""

    heartbeat_seconds: float = 2.0
    stale_seconds: float = 20.0
    poll_seconds: float = 0.5


class LeaseLost(Exception):
    """A higher number is there: somebody held this worker for dead."""


class Lease:
    """Held from its making until `release`, unless somebody takes the next number."""

    def __init__(self, directory: Path, number: int, attempt: str) -> None:
        self.number, self.attempt = number, attempt
        self._directory = directory
        self._beats = 0
        self._writing = threading.Lock()

    def check(self) -> None:
        """Raises LeaseLost when there is a successor."""
        if highest(self._directory) > self.number:
            raise LeaseLost(f"another worker has taken over from attempt {self.attempt}")

    def beat(self, news: dict[str, Any] | None = None, *, released: bool = False) -> None:
        """Tells the watchers that the holder lives, and what there is to tell."""
        with self._writing:
            self._beats += 1
            text = json.dumps({"beats": self._beats, "released": released, "news": news or {}})
            path = self._directory / f"{self.attempt}.beat"
            temporary = path.with_suffix(".tmp")
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)

    def release(self) -> None:
        """Lets the next one take it at once, and sweeps up after the predecessors."""
        self.beat(released=True)
        kept = {_name(self.number), f"{self.attempt}.beat"}
        for path in self._directory.iterdir():
            is_older = path.name.isdigit() and int(path.name) < self.number
            if is_older or (
                path.suffix == ".beat" and path.name not in kept and highest(self._directory) <= self.number
            ):
                path.unlink(missing_ok=True)


@contextmanager
def beating(lease: Lease, pace: Pace, news: Callable[[], dict[str, Any]]) -> Iterator[threading.Event]:
    """Beats until the block ends, then releases. Gives an event that is set once the lease is lost."""
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
    """Watches a directory of leases and takes one as soon as nobody alive holds it."""

    def __init__(self, directory: Path, pace: Pace, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory, self._pace, self._clock = directory, pace, clock
        self._seen: tuple[int, int] | None = None
        self._seen_since = clock()
        self.beats_seen = 0
        self.news: dict[str, Any] = {}

    def try_take(self) -> Lease | None:
        """The lease, or None while another's heart beats; then `news` is what its holder told last."""
        number = highest(self._directory)
        beat = _read(self._directory / f"{_attempt(self._directory, number)}.beat") if number else {}
        if not number or beat.get("released"):
            return _create(self._directory, number + 1)
        seen = (number, int(beat.get("beats", 0)))
        self.news = beat.get("news") or {}
        if seen != self._seen:
            self._seen, self._seen_since = seen, self._clock()
            self.beats_seen += 1
        elif self._clock() - self._seen_since > self._pace.stale_seconds:
            logger.warning("the worker that downloads has not moved for %.0f s: taking over", self._pace.stale_seconds)
            return _create(self._directory, number + 1)
        return None


def highest(directory: Path) -> int:
    """The number of the lease that holds, whether or not its holder lives; 0 where there was never one."""
    try:
        return max((int(path.name) for path in directory.iterdir() if path.name.isdigit()), default=0)
    except FileNotFoundError:
        return 0


def _create(directory: Path, number: int) -> Lease | None:
    """Exactly one worker creates a number: the others get None."""
    directory.mkdir(parents=True, exist_ok=True)
    attempt = uuid.uuid4().hex
    lease = Lease(directory, number, attempt)
    lease.beat()  # first, so that nobody finds a lease without a heart
    content = json.dumps({"attempt": attempt, "host": socket.gethostname(), "process": os.getpid()})
    if _create_exclusively(directory / _name(number), content, attempt):
        return lease
    (directory / f"{attempt}.beat").unlink(missing_ok=True)
    return None


def _create_exclusively(path: Path, content: str, attempt: str) -> bool:
    """By a hard link, which is atomic on network file systems too and brings its content along; else by O_EXCL."""
    temporary = path.with_name(f"{attempt}.new")
    temporary.write_text(content, encoding="utf-8")
    try:
        os.link(temporary, path)
    except FileExistsError:
        return _read(path).get("attempt") == attempt  # a network may lose the answer to a link that was made
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        return create_without_links(path, content)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def create_without_links(path: Path, content: str) -> bool:
    """For file systems that know no hard links. Whoever reads in between finds an empty lease, and waits."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


def _attempt(directory: Path, number: int) -> str:
    return str(_read(directory / _name(number)).get("attempt", ""))


def _name(number: int) -> str:
    return f"{number:06d}"


def _read(path: Path) -> dict[str, Any]:
    """Lenient: whatever cannot be read is no news."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
