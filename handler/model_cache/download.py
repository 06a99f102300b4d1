"""Downloads a revision into its staging directory, several files at a time, and publishes it when all is verified."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from handler.errors import ModelRefused, ModelUnavailable
from handler.model_cache import digest, hub_errors
from handler.model_cache.digest import Digest
from handler.model_cache.hub import Hub, HubFile, Revision
from handler.model_cache.lease import LeaseLost
from handler.model_cache.manifest import ModelFile
from handler.model_cache.progress import GIB, Meter
from handler.model_cache.staging import Staging

logger = logging.getLogger(__name__)

CONNECTIONS = 8
# A file system needs some room beside the files: 1 %, and 16 MiB for a small model.
SPARE_SHARE, SPARE_BYTES = 0.01, 16 << 20


class Corrupt(Exception):
    """A file's content does not have the hash that the hub announced."""


@dataclass(frozen=True)
class Patience:
    """How often a stumbling hub is tried again."""

    #: The pauses before further tries to list the files of a revision.
    ask_again_seconds: tuple[float, ...] = (1, 2, 4)
    #: The pauses before further tries to fetch one file.
    retry_seconds: tuple[float, ...] = (1, 2, 4, 8, 16)
    #: How long nothing may come before the attempt ends.
    stall_seconds: float = 300.0


@dataclass
class Download:
    """One attempt to download a revision."""

    hub: Hub
    revision: Revision
    staging: Staging
    meter: Meter
    #: Set when another worker has taken over.
    lost: threading.Event
    patience: Patience = field(default_factory=Patience)

    def fetch(self, files: Sequence[HubFile], report: Callable[[], None]) -> list[ModelFile]:
        """Brings the files into the staging directory, verified.

        Raises LeaseLost, ModelRefused or ModelUnavailable. What has come by then stays for the next attempt.
        """
        self._require_space(files)
        self.staging.make_directories(file.path for file in files)
        wanted: queue.SimpleQueue[HubFile] = queue.SimpleQueue()
        # The largest first, so that no long download is left alone at the end.
        for file in sorted(files, key=lambda file: file.size_bytes, reverse=True):
            wanted.put(file)
        results: queue.SimpleQueue[ModelFile | Exception] = queue.SimpleQueue()
        for _ in range(min(CONNECTIONS, len(files))):
            # Daemon threads, so that SIGTERM ends the worker at once, also while a connection stalls.
            threading.Thread(target=self._work, args=(wanted, results), name="model-download", daemon=True).start()
        try:
            return [self._next(results, report) for _ in files]
        except BaseException:
            self.lost.set()  # the threads stop at their next block
            raise

    def _next(self, results: queue.SimpleQueue[ModelFile | Exception], report: Callable[[], None]) -> ModelFile:
        seconds_without = 0.0
        before = self.meter.progress().done_bytes
        while True:
            report()
            try:
                result = results.get(timeout=0.5)
            except queue.Empty:
                now = self.meter.progress().done_bytes
                seconds_without = seconds_without + 0.5 if now == before else 0.0
                before = now
                if seconds_without > self.patience.stall_seconds:
                    raise ModelUnavailable(f"{self.hub.host} sent nothing for {seconds_without:.0f} s") from None
                continue
            if isinstance(result, Exception):
                raise result
            return result

    def _work(self, wanted: queue.SimpleQueue[HubFile], results: queue.SimpleQueue[ModelFile | Exception]) -> None:
        while True:
            try:
                file = wanted.get_nowait()
            except queue.Empty:
                return
            try:
                results.put(self._fetch(file))
            except Exception as error:
                results.put(error)
                return

    def _fetch(self, file: HubFile) -> ModelFile:
        left = self.staging.left_over(file.path)
        left_bytes = left.size()
        with self.staging.partial(file.path).create_anew() as raw:
            target = _Target(raw, file, self.meter, self.lost)
            if file.sha256 and left_bytes is not None and left_bytes <= file.size_bytes:
                with left.open_file() as source:
                    target.resume_from(source)
            self._fill(target, file)
            raw.flush()
            os.fsync(raw.fileno())
        self.staging.keep(file.path)
        return ModelFile(file.path, file.size_bytes, target.digest.sha256)

    def _fill(self, target: _Target, file: HubFile) -> None:
        """Tries until the content is right; raises the last failure when its pauses are used up."""
        pauses = iter(self.patience.retry_seconds)
        while True:
            try:
                self.hub.download(self.revision, file, target, target.digest.seen_bytes)
                return target.verify()
            except (ModelUnavailable, Corrupt) as error:
                pause = next(pauses, None)
                if pause is None or self.lost.is_set():
                    raise ModelUnavailable(f"{file.path}: {error}") from error
                logger.warning("%s: %s; trying again in %.0f s", file.path, error, pause)
                self.lost.wait(pause)
            except OSError as error:
                if hub_errors.is_full(error):
                    raise ModelRefused(
                        f"the disk is full: {self.staging.path} takes no more. Free some space "
                        "(`python -m handler prune`), or make the volume larger"
                    ) from error
                raise

    def _require_space(self, files: Sequence[HubFile]) -> None:
        """Raises ModelRefused when the files do not fit. A quota may show only while the volume is written."""
        needed = sum(file.size_bytes for file in files)
        spare = max(int(needed * SPARE_SHARE), SPARE_BYTES)
        free = self.staging.path.free_bytes()
        if files and free < needed + spare:
            missing = needed + spare - free
            raise ModelRefused(
                f"not enough space for {self.revision.repository} in {self.staging.path}: it needs "
                f"{(needed + spare) / GIB:.2f} GiB, {free / GIB:.2f} GiB are free, {missing / GIB:.2f} GiB are "
                "missing: free some (`python -m handler prune`), or make the volume larger"
            )


class _Target:
    """A file that hashes and counts what is written, and accepts nothing more once the lease is lost."""

    def __init__(self, raw: BinaryIO, file: HubFile, meter: Meter, lost: threading.Event) -> None:
        self._raw, self._file, self._meter, self._lost = raw, file, meter, lost
        self.digest = Digest(file.size_bytes)

    def resume_from(self, source: BinaryIO) -> None:
        """Begins with what an earlier attempt has left."""
        digest.copy(source, self.digest, self._raw.write)
        self._meter.found(self.digest.seen_bytes)
        if self.digest.seen_bytes > self._file.size_bytes:
            self.seek(0)
            self.truncate()

    def verify(self) -> None:
        """Raises Corrupt, and begins anew, when the content is not what the hub announced."""
        expected = self._file.sha256 or self._file.git_sha1
        if expected and expected not in (self.digest.sha256, self.digest.git_sha1):
            self.seek(0)
            self.truncate()
            raise Corrupt("what came does not have the announced hash")

    def write(self, block: bytes, /) -> int:
        if self._lost.is_set():
            raise LeaseLost("another worker has taken over, or this one ends")
        self.digest.update(block)
        self._meter.received(len(block))
        return self._raw.write(block)

    def tell(self) -> int:
        return self._raw.tell()

    def seek(self, position: int, /) -> int:
        return self._raw.seek(position)

    def truncate(self) -> int:
        """Empties the file. The hub client goes back to the start where a server does not support Range."""
        self._meter.received(-self.digest.seen_bytes)
        self.digest = Digest(self._file.size_bytes)
        return self._raw.truncate(0)
