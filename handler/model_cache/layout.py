"""Where a repository lies below a cache's root. The names are those of the hub's own cache, so its tools can read it.

models--org--name/snapshots/<commit>/    a whole model: the files and, last, the manifest
                  refs/<revision>        the commit that a branch or tag stood for when it was downloaded
                  .staging/<revision>/   downloads under way, or left by a crash, one directory for each attempt
                  .leases/<revision>/    which worker downloads (`lease`)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from handler.model_cache import manifest
from handler.model_cache.manifest import Manifest
from handler.volume.path import VolumePath

COMMIT = re.compile(r"[0-9a-f]{40}")
DEFAULT_REVISION = "main"
MAX_REF_BYTES = 256


@dataclass(frozen=True)
class RepositoryDirectory:
    """One repository's directory in a cache."""

    files: VolumePath

    @classmethod
    def of(cls, root: Path, repository: str, *, links: bool = False) -> RepositoryDirectory:
        """Returns the directory that is there, in whatever case its name was written, or the one to be made.

        links: follow links inside the root, which the hub's client makes. This worker makes none.
        """
        name = "models--" + repository.replace("/", "--")
        files = VolumePath(root, links=links)
        return cls(files / (_as_written(files, name) or name))

    @property
    def path(self) -> Path:
        """The directory, for messages."""
        return self.files.path

    @property
    def snapshots(self) -> VolumePath:
        """The folder of all commits, one directory each."""
        return self.files / "snapshots"

    def snapshot(self, commit: str) -> VolumePath:
        """Returns the directory with the files of one commit."""
        return self.snapshots / commit

    def ref(self, revision: str) -> VolumePath:
        """Returns the file that holds the commit of a branch or tag."""
        return self.files / "refs" / revision

    def staging(self, revision: str) -> VolumePath:
        """Returns the folder of the attempts at a revision."""
        return self.files / ".staging" / quote(revision, safe="")

    def leases(self, revision: str) -> VolumePath:
        """Returns the folder of the leases of a revision."""
        return self.files / ".leases" / quote(revision, safe="")

    def candidates(self, revision: str) -> Iterator[VolumePath]:
        """Yields the snapshots that may be this revision, the likeliest first."""
        if COMMIT.fullmatch(revision):
            yield self.snapshot(revision)
            return
        if commit := self._referenced(revision):
            yield self.snapshot(commit)
        for snapshot, record in sorted(self.records(), key=lambda found: _changed_at(found[0]), reverse=True):
            if record.revision == revision:  # a crash came between the files and the ref
                yield snapshot

    def records(self) -> Iterator[tuple[VolumePath, Manifest]]:
        """Yields the snapshots with a manifest."""
        for snapshot in self.snapshots.children():
            if record := manifest.read_record(snapshot):
                yield snapshot, record

    def _referenced(self, revision: str) -> str | None:
        try:
            commit = self.ref(revision).read(MAX_REF_BYTES).decode().strip()
        except (OSError, ValueError):
            return None
        return commit if COMMIT.fullmatch(commit) else None


def repositories(root: Path) -> Iterator[tuple[str, RepositoryDirectory]]:
    """Yields every repository below a cache's root, with its name."""
    for found in VolumePath(root).children():
        if found.name.startswith("models--"):
            yield found.name.removeprefix("models--").replace("--", "/", 1), RepositoryDirectory(found)


def _changed_at(snapshot: VolumePath) -> int:
    found = snapshot.status()
    return found.st_mtime_ns if found else 0


def _as_written(directory: VolumePath, name: str) -> str | None:
    names = [child.name for child in directory.children() if child.name.casefold() == name.casefold()]
    return name if name in names else next(iter(names), None)
