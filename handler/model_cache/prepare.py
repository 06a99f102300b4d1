"""Brings a model to the disk before the engine starts: finds it, waits for another worker's download, or downloads."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from handler.errors import ModelRefused, ModelUnavailable
from handler.model_cache import lease, manifest, verification
from handler.model_cache.completeness import fault_of
from handler.model_cache.download import Download, Patience
from handler.model_cache.hub import Hub, HubFile, Revision
from handler.model_cache.layout import RepositoryDirectory
from handler.model_cache.lease import Lease, LeaseLost, Pace, Watcher
from handler.model_cache.locate import Located, ModelDirectory, ModelRequest, is_hub_name, local_path, locate
from handler.model_cache.manifest import Manifest, ModelFile
from handler.model_cache.progress import LogNowAndThen, Meter, Progress, Report
from handler.model_cache.selection import select
from handler.model_cache.staging import Staging

logger = logging.getLogger(__name__)

MAX_LOST_DIRECTORIES = 3


@dataclass(frozen=True)
class PreparedModel:
    """A model that is whole on this disk."""

    #: What vLLM is given as the model.
    path: str
    #: The name to serve it under.
    served_name: str
    source: str


@dataclass(frozen=True)
class ModelCache:
    """The directories to look in, and the one to download to, which is the last of them."""

    directories: tuple[ModelDirectory, ...]
    hub: Hub
    #: Read and compare all files before they are used, and fetch broken ones anew.
    verify: bool = False
    pace: Pace = field(default_factory=Pace)
    patience: Patience = field(default_factory=Patience)
    sleep: Callable[[float], None] = time.sleep

    @property
    def root(self) -> Path:
        """The directory of downloads."""
        return self.directories[-1].root

    def prepare(self, request: ModelRequest, report: Report | None = None) -> PreparedModel:
        """Returns when the model is whole on the disk; uses the hub only when it is not.

        Raises ModelRefused (no such model or revision, no access, no space) or ModelUnavailable (hub and disks failed).
        """
        if found := local_path(request.name):
            return _checked(request, found)
        if not is_hub_name(request.name):
            return PreparedModel(request.name, request.name, "a name that is left to vLLM")
        if not manifest.is_inside(request.revision):
            raise ModelRefused(f"MODEL_REVISION={request.revision!r} is no revision", param="MODEL_REVISION")
        preparation = _Preparation(self, request, report or LogNowAndThen())
        found = preparation.run()
        _warn_of_strangers(found)
        logger.info("%s (%s) is in %s: %s", request.name, request.revision, found.source, found.path)
        return PreparedModel(str(found.path), request.name, found.source)


def _checked(request: ModelRequest, found: Located) -> PreparedModel:
    """Returns the model at a local path; raises ModelRefused where it is plainly not whole."""
    if found.path.is_dir() and (fault := fault_of(found.files)):
        raise ModelRefused(f"{request.name}: {fault}. Copy or download all files of the model once more")
    return PreparedModel(str(found.path), request.name, found.source)


def _warn_of_strangers(found: Located) -> None:
    """Logs it where others may write: they can change the model. VERIFY_MODEL finds a change of its files."""
    reason = found.files.distrusted_because() if found.files.is_dir() else None
    if reason:
        logger.warning("%s: %s, so whoever that is can change the model", found.files, reason)


class _Preparation:
    def __init__(self, cache: ModelCache, request: ModelRequest, report: Report) -> None:
        self._cache, self._request, self._report = cache, request, report
        self._repository = RepositoryDirectory.of(cache.root, request.name)
        self._leases = self._repository.leases(request.revision)
        self._directories = cache.directories
        self._broken: list[ModelFile] = []
        self._lost_directories = 0

    def run(self) -> Located:
        while found := locate(self._request, self._directories):
            self._broken = self._find_broken(found) if self._cache.verify else []
            if not self._broken:
                return found
            if found.path.is_relative_to(self._repository.path):
                break
            # This worker cannot mend what is in the image or RunPod's cache, so the directory is passed over.
            self._directories = tuple(directory for directory in self._directories if directory.title != found.source)
            self._broken = []
        try:
            self._repository.files.make()
            return self._wait_or_download()
        except ModelUnavailable as error:
            raise ModelUnavailable(self._tried(error)) from error
        except OSError as error:
            raise ModelRefused(f"{self._repository.path} cannot be used: {error}", param="MODEL_CACHE_DIR") from error

    def _wait_or_download(self) -> Located:
        watcher = Watcher(self._leases, self._cache.pace)
        while True:
            taken = watcher.try_take()
            if taken:
                self._with_lease(taken)
            if found := self._ready():
                return found
            if not taken:
                self._follow(watcher.news)
                self._cache.sleep(self._cache.pace.poll_seconds)

    def _with_lease(self, taken: Lease) -> None:
        meter = Meter(self._request.name, 0)
        progress: list[Meter] = [meter]
        try:
            with lease.beating(taken, self._cache.pace, lambda: asdict(progress[0].progress())) as lost:
                taken.check()
                if self._ready():
                    return
                logger.info("fetching %s from %s", self._request.name, self._cache.hub.host)
                self._download(taken, lost, progress)
        except LeaseLost as error:
            logger.warning("%s; following it", error)
        except FileNotFoundError:
            # A predecessor that was only paused may take the directory back, and then sees that it is late.
            self._lost_directories += 1
            if self._lost_directories > MAX_LOST_DIRECTORIES:
                raise
            logger.warning("another worker has taken over what this one had downloaded; looking again")

    def _download(self, taken: Lease, lost: threading.Event, progress: list[Meter]) -> None:
        request = self._request
        revision = self._ask()
        plan = _plan(revision, request, manifest.read_record(self._repository.snapshot(revision.commit)))
        taken.check()
        staging = Staging.open(self._repository, request.revision, revision.commit, taken.attempt)
        wanted, there = self._split(plan, staging)
        meter = progress[0] = Meter(request.name, sum(file.size_bytes for file in plan.files))
        meter.found(sum(file.size_bytes for file in there))
        download = Download(self._cache.hub, revision, staging, meter, lost, self._cache.patience)
        fetched = download.fetch(wanted, lambda: self._report(meter.progress()))
        taken.check()
        staging.publish(self._repository, plan.manifest(revision, request, [*there, *fetched]))
        self._report(meter.progress())

    def _ask(self) -> Revision:
        """Returns the revision's files. A hub that stumbles is tried again a few times."""
        for pause_seconds in self._cache.patience.ask_again_seconds:
            try:
                return self._cache.hub.revision(self._request.name, self._request.revision)
            except ModelUnavailable as error:
                if self._cache.hub.offline:
                    raise
                logger.warning("%s; asking again in %.0f s", error.message, pause_seconds)
                self._cache.sleep(pause_seconds)
        return self._cache.hub.revision(self._request.name, self._request.revision)

    def _split(self, plan: _Plan, staging: Staging) -> tuple[list[HubFile], list[ModelFile]]:
        """Returns what is to be fetched, and what an earlier attempt, or a model that needs mending, already has."""
        snapshot = self._repository.snapshot(plan.commit)
        record = manifest.read_record(snapshot)
        kept = {file.path: file for file in (record.files if record else ()) if file not in self._broken}
        wanted, there = [], []
        for file in plan.files:
            known = kept.get(file.path)
            if known and known.size_bytes == file.size_bytes and (snapshot / file.path).size() == file.size_bytes:
                there.append(known)
            elif staging.done(file.path, file.size_bytes):
                there.append(ModelFile(file.path, file.size_bytes, file.sha256 or staging.sha256(file.path)))
            else:
                wanted.append(file)
        return wanted, there

    def _ready(self) -> Located | None:
        """Returns the model, once it is whole and nothing of it is known to be broken."""
        found = locate(self._request, self._directories)
        if found and self._broken:
            self._broken = verification.still_broken(found.files, self._broken)
        return None if self._broken else found

    def _find_broken(self, found: Located) -> list[ModelFile]:
        record = manifest.read_record(found.files)
        if record is None:
            logger.warning("%s has no manifest, so it cannot be verified", found.path)
            return []
        broken = verification.broken_files(found.files, record, Meter(self._request.name, record.size_bytes))
        if broken:
            logger.error("broken in %s: %s; fetching anew", found.path, ", ".join(file.path for file in broken))
        return broken

    def _follow(self, news: dict[str, Any]) -> None:
        try:
            self._report(Progress(**(news | {"here": False, "model": self._request.name})))
        except (TypeError, ValueError, OverflowError):  # whatever somebody has put there
            logger.debug("the worker that downloads has written no news yet")

    def _tried(self, error: ModelUnavailable) -> str:
        """Returns the message of a failure: what was looked at, in order, and the outcome."""
        request = self._request
        if self._broken:
            broken = ", ".join(file.path for file in self._broken)
            return f"{request.name} has broken files ({broken}) and they cannot be fetched: {error.message}"
        looked = "; ".join(f"{directory.title} ({directory.root})" for directory in self._cache.directories)
        return (
            f"{request.name} ({request.revision}) is not here whole and cannot be downloaded. Tried, in order: a local "
            f"path of that name; {looked}; {self._cache.hub.host}: {error.message}"
        )


@dataclass(frozen=True)
class _Plan:
    commit: str
    files: Sequence[HubFile]
    with_code: bool
    mistral_format: bool | None

    def manifest(self, revision: Revision, request: ModelRequest, files: Sequence[ModelFile]) -> Manifest:
        ordered = tuple(sorted(files, key=lambda file: file.path))
        return Manifest(
            revision.repository, request.revision, revision.commit, ordered, self.with_code, self.mistral_format
        )


def _plan(revision: Revision, request: ModelRequest, record: Manifest | None) -> _Plan:
    """Returns the files that are needed, and those that an earlier, other choice has already brought here."""
    paths = [file.path for file in revision.files]
    with_code = request.with_code or (record is not None and record.with_code)
    choice = select(paths, with_code=with_code, mistral_format=request.mistral_format)
    wanted, mistral_format = set(choice.paths), choice.mistral_format
    if record and mistral_format is not None and record.mistral_format != mistral_format:
        wanted |= set(select(paths, with_code=with_code, mistral_format=not request.mistral_format).paths)
        mistral_format = None
    if not wanted:
        raise ModelRefused(f"{revision.repository} holds no files that vLLM can load")
    files = [file for file in revision.files if file.path in wanted]
    return _Plan(revision.commit, files, choice.with_code, mistral_format)
