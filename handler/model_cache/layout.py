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

COMMIT = re.compile(r"[0-9a-f]{40}")
DEFAULT_REVISION = "main"


@dataclass(frozen=True)
class RepositoryDirectory:
    """One repository's directory in a cache."""

    path: Path

    @classmethod
    def of(cls, root: Path, repository: str) -> RepositoryDirectory:
        """Returns the directory that is there, in whatever case its name was written, or the one to be made."""
        name = "models--" + repository.replace("/", "--")
        return cls(root / (_as_written(root, name) or name))

    @property
    def snapshots(self) -> Path:
        """The folder of all commits, one directory each."""
        return self.path / "snapshots"

    def snapshot(self, commit: str) -> Path:
        """Returns the directory with the files of one commit."""
        return self.snapshots / commit

    def ref(self, revision: str) -> Path:
        """Returns the file that holds the commit of a branch or tag."""
        return self.path / "refs" / revision

    def staging(self, revision: str) -> Path:
        """Returns the folder of the attempts at a revision."""
        return self.path / ".staging" / quote(revision, safe="")

    def leases(self, revision: str) -> Path:
        """Returns the folder of the leases of a revision."""
        return self.path / ".leases" / quote(revision, safe="")

    def candidates(self, revision: str) -> Iterator[Path]:
        """Yields the snapshots that may be this revision, the likeliest first."""
        if COMMIT.fullmatch(revision):
            yield self.snapshot(revision)
            return
        if commit := self._referenced(revision):
            yield self.snapshot(commit)
        for snapshot, record in sorted(self.records(), key=lambda found: found[0].stat().st_mtime_ns, reverse=True):
            if record.revision == revision:  # a crash came between the files and the ref
                yield snapshot

    def records(self) -> Iterator[tuple[Path, Manifest]]:
        """Yields the snapshots with a manifest."""
        for snapshot in _children(self.snapshots):
            if record := manifest.read_record(snapshot):
                yield snapshot, record

    def _referenced(self, revision: str) -> str | None:
        try:
            commit = self.ref(revision).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
        return commit if COMMIT.fullmatch(commit) else None


def repositories(root: Path) -> Iterator[tuple[str, RepositoryDirectory]]:
    """Yields every repository below a cache's root, with its name."""
    for path in _children(root):
        if path.name.startswith("models--"):
            yield path.name.removeprefix("models--").replace("--", "/", 1), RepositoryDirectory(path)


def _children(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []


def _as_written(directory: Path, name: str) -> str | None:
    names = [child.name for child in _children(directory) if child.name.casefold() == name.casefold()]
    return name if name in names else next(iter(names), None)
