"""An attempt's own directory: files under way, verified files, and the step that publishes them.

No other worker writes here. A successor takes a dead attempt's directory over by renaming it, so a holder that was only
paused finds its paths gone. What it still writes through open files goes to files that the successor only reads.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from handler.model_cache.digest import sha256_of
from handler.model_cache.layout import RepositoryDirectory
from handler.model_cache.manifest import Manifest, has_size, sync_directory, write_atomically

PARTIAL, LEFT_OVER = ".partial", ".left-over"


class Staging:
    """The directory of one attempt at one commit."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(cls, repository: RepositoryDirectory, revision: str, commit: str, attempt: str) -> Staging:
        """Makes the directory from what an earlier attempt at the same commit has left; drops other attempts."""
        parent = repository.staging(revision)
        parent.mkdir(parents=True, exist_ok=True)
        path = parent / f"{commit}.{attempt}"
        for left in sorted(parent.iterdir(), key=size_on_disk, reverse=True):
            if left.name.startswith(commit) and not path.exists():
                left.rename(path)
            else:
                shutil.rmtree(left, ignore_errors=True)
        path.mkdir(exist_ok=True)
        _set_partial_files_aside(path)
        return cls(path)

    def make_directories(self, names: Iterable[str]) -> None:
        """Makes the folders of the files. The directory itself must be there."""
        for parent in sorted({ancestor for name in names for ancestor in PurePosixPath(name).parents}):
            if parent != PurePosixPath():
                (self.path / parent).mkdir(exist_ok=True)

    def done(self, name: str, size_bytes: int) -> bool:
        """Returns whether the file is here and verified: only verified files ever get their own name."""
        return has_size(self.path / name, size_bytes)

    def partial(self, name: str) -> Path:
        """Returns where this attempt writes a file."""
        return self.path / (name + PARTIAL)

    def left_over(self, name: str) -> Path:
        """Returns what an earlier attempt has left of a file: to be read, never to be written to."""
        return self.path / (name + LEFT_OVER)

    def sha256(self, name: str) -> str:
        """Returns the hash of a verified file whose hash the hub did not give."""
        return sha256_of(self.path / name)

    def keep(self, name: str) -> None:
        """Gives a verified file its name."""
        self.partial(name).rename(self.path / name)
        self.left_over(name).unlink(missing_ok=True)

    def publish(self, repository: RepositoryDirectory, manifest: Manifest) -> Path:
        """Moves the whole model to its place by one rename.

        Where a broken one stands, its files are replaced one by one.
        """
        manifest.write(self.path)  # fails when a successor has taken the directory
        target = repository.snapshot(manifest.commit)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not manifest.is_whole(self.path) or not self._rename_to(target):
            self._replace_files(target, manifest)
        sync_directory(target.parent)
        if manifest.revision != manifest.commit:
            ref = repository.ref(manifest.revision)
            ref.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(ref, manifest.commit)
        return target

    def _rename_to(self, target: Path) -> bool:
        """Returns False where something stands already."""
        try:
            self.path.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return False
        return True

    def _replace_files(self, target: Path, manifest: Manifest) -> None:
        if not target.is_dir():
            raise FileNotFoundError(errno.ENOENT, "the rest of the model has vanished", str(target))
        for file in manifest.files:
            if self.done(file.path, file.size_bytes):
                (target / file.path).parent.mkdir(parents=True, exist_ok=True)
                (self.path / file.path).replace(target / file.path)
        manifest.write(target)
        shutil.rmtree(self.path, ignore_errors=True)


def size_on_disk(directory: Path) -> int:
    """Returns the bytes of all files below a directory, some of which may be vanishing."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += (Path(folder) / name).lstat().st_size
            except OSError:
                continue
    return total


def _set_partial_files_aside(path: Path) -> None:
    for partial in list(path.rglob("*" + PARTIAL)):
        left = partial.with_name(partial.name.removesuffix(PARTIAL) + LEFT_OVER)
        if left.exists() and left.stat().st_size > partial.stat().st_size:
            partial.unlink()
        else:
            partial.replace(left)
