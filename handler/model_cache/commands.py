"""`python -m handler download | verify | prune`: looks after the models on a volume by hand, with a progress bar."""

from __future__ import annotations

import argparse
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars

from handler.errors import ConfigurationError, ModelRefused
from handler.model_cache import manifest, verification
from handler.model_cache.layout import DEFAULT_REVISION, RepositoryDirectory, repositories
from handler.model_cache.lease import Watcher
from handler.model_cache.locate import ModelDirectory, ModelRequest
from handler.model_cache.manifest import Manifest
from handler.model_cache.prepare import ModelCache
from handler.model_cache.progress import GIB, Meter, Progress, Report
from handler.volume.path import VolumePath

EXIT_BROKEN = 1


def run(arguments: Sequence[str], cache: ModelCache, name: str | None, revision: str | None) -> int:
    """Runs one of the commands; returns the exit code, which is 1 when `verify` finds something.

    name, revision: the model of the environment, for `download` without a name.
    """
    options = _parse(arguments)
    if options.directory:
        root = Path(options.directory)
        cache = replace(cache, directories=(ModelDirectory("the given directory", root, own=True),))
    if options.command == "download":
        return _download(cache, _requests(options, name, revision))
    if options.command == "verify":
        return _verify(cache, options.models)
    return _prune(cache, options.models, confirmed=options.yes)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m handler", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    download = commands.add_parser("download", help="bring models to the volume (MODEL_NAME where none is given)")
    download.add_argument("--revision", help="branch, tag or commit (MODEL_REVISION, else main)")
    download.add_argument("--with-code", action="store_true", help="also Python files, for --trust-remote-code")
    verify = commands.add_parser("verify", help="read all files and compare their hashes; exits 1 if any is broken")
    prune = commands.add_parser("prune", help="list and remove what crashed downloads left, and models by name")
    prune.add_argument("--yes", action="store_true", help="do not ask")
    for command in (download, verify, prune):
        command.add_argument("models", nargs="*", metavar="MODEL", help="organisation/name")
        command.add_argument("--directory", help="instead of MODEL_CACHE_DIR")
    return parser.parse_args(arguments)


def _requests(options: argparse.Namespace, name: str | None, revision: str | None) -> list[ModelRequest]:
    names = options.models or ([name] if name else [])
    if not names:
        raise ConfigurationError("MODEL_NAME is not set: name the models to download", param="MODEL_NAME")
    revision = options.revision or (None if options.models else revision) or DEFAULT_REVISION
    return [ModelRequest(name, revision, with_code=options.with_code) for name in names]


def _download(cache: ModelCache, requests: Sequence[ModelRequest]) -> int:
    own = replace(cache, directories=tuple(directory for directory in cache.directories if directory.own))
    for request in requests:
        with _bar() as report:
            prepared = own.prepare(request, report)
        sys.stdout.write(f"{request.name}: {prepared.path}\n")
    return 0


def _verify(cache: ModelCache, names: Sequence[str]) -> int:
    broken_models = 0
    for name, snapshot, record in _recorded(cache.root, names):
        meter = Meter(name, record.size_bytes)
        with _bar() as report:
            broken = verification.broken_files(snapshot, record, meter)
            report(meter.progress())
        verdict = ", ".join(f"{file.path} is broken" for file in broken) or f"{len(record.files)} files are good"
        sys.stdout.write(f"{name} {record.revision} ({record.commit[:12]}): {verdict}\n")
        broken_models += bool(broken)
    if broken_models:
        sys.stdout.write("VERIFY_MODEL=true makes the worker fetch broken files anew when it starts\n")
    return EXIT_BROKEN if broken_models else 0


def _recorded(root: Path, names: Sequence[str]) -> Iterator[tuple[str, VolumePath, Manifest]]:
    found = {name: list(directory.records()) for name, directory in repositories(root)}
    by_case = {name.casefold(): name for name in found}
    for name in names or sorted(found):
        known = by_case.get(name.casefold())
        if not known or not found[known]:
            raise ModelRefused(f"{name} is not in {root}", param="MODEL")
        yield from ((record.repository, snapshot, record) for snapshot, record in found[known])


def _prune(cache: ModelCache, names: Sequence[str], *, confirmed: bool) -> int:
    doomed = list(_named(cache.root, names)) if names else list(_left_over(cache.root))
    if not doomed:
        sys.stdout.write(f"nothing to remove in {cache.root}\n")
        return 0
    for _, path in doomed:
        sys.stdout.write(f"{path.size_on_disk() / GIB:9.3f} GiB  {path}\n")
    if not confirmed and not _confirm():
        return 0
    removed = [_remove(directory, path, cache) for directory, path in doomed]
    return 0 if all(removed) else EXIT_BROKEN


def _named(root: Path, names: Sequence[str]) -> Iterator[tuple[RepositoryDirectory, VolumePath]]:
    for name in names:
        directory = RepositoryDirectory.of(root, name)
        if not manifest.is_inside(name) or directory.files.status() is None:
            raise ModelRefused(f"{name} is not in {root}", param="MODEL")
        yield directory, directory.files


def _left_over(root: Path) -> Iterator[tuple[RepositoryDirectory, VolumePath]]:
    for _, directory in repositories(root):
        staging = directory.files / ".staging"
        for revision in [staging] if _is_foreign(staging) else staging.children():
            for path in [revision] if _is_foreign(revision) else revision.children():
                yield directory, path


def _is_foreign(path: VolumePath) -> bool:
    """Returns whether something is there that is no directory, so that no worker has made it."""
    return path.status() is not None and not path.is_dir()


def _confirm() -> bool:
    sys.stdout.write("remove? [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _remove(directory: RepositoryDirectory, path: VolumePath, cache: ModelCache) -> bool:
    """Removes a directory while it holds every lease of its repository; returns False where it could not."""
    # With the leases held, no download is torn away from a live worker.
    held = [_take(leases, cache) for leases in (directory.files / ".leases").children() if leases.is_dir()]
    try:
        if not all(held):
            sys.stdout.write(f"kept, because a worker is downloading to it: {path}\n")
            return True
        doomed = path.with_name(f".removed-{uuid.uuid4().hex}")
        path.rename(doomed)
        doomed.remove()
        sys.stdout.write(f"removed {path}\n")
    except OSError as error:
        sys.stdout.write(f"not removed: {path}: {error.strerror}\n")
        return False
    finally:
        for release in held:
            if release and directory.files.is_dir():
                with suppress(OSError):
                    release()
    return True


def _take(leases: VolumePath, cache: ModelCache) -> Callable[[], None] | None:
    """Returns the release of a lease, or None when its holder is alive. Watches as long as a worker may be silent."""
    watcher = Watcher(leases, cache.pace)
    end = time.monotonic() + cache.pace.stale_seconds + 5 * cache.pace.poll_seconds
    while time.monotonic() < end:
        if lease := watcher.try_take():
            return lease.release
        if watcher.beats_seen > 1:
            return None
        cache.sleep(cache.pace.poll_seconds)
    return None


@contextmanager
def _bar() -> Iterator[Report]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task("asking the hub", total=None)

        def report(progress: Progress) -> None:
            elsewhere = "" if progress.here else " (another worker)"
            bars.update(
                task,
                description=progress.model + elsewhere,
                total=progress.total_bytes or None,
                completed=progress.done_bytes,
            )

        yield report
