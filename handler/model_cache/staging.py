"""An attempt's own directory: files under way, verified files, and the step that publishes them.

No other worker writes here. A successor takes a dead attempt's directory over by renaming it, so a holder that was only
paused finds its paths gone. What it still writes through open files goes to files that the successor only reads.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from pathlib import PurePosixPath

from handler.model_cache.digest import sha256_of
from handler.model_cache.layout import RepositoryDirectory
from handler.model_cache.manifest import Manifest, write_atomically
from handler.volume.path import VolumePath

PARTIAL, LEFT_OVER = ".partial", ".left-over"


class Staging:
    """The directory of one attempt at one commit."""

    def __init__(self, path: VolumePath) -> None:
        self.path = path

    @classmethod
    def open(cls, repository: RepositoryDirectory, revision: str, commit: str, attempt: str) -> Staging:
        """Makes the directory from what an earlier attempt at the same commit has left; drops other attempts."""
        parent = repository.staging(revision)
        parent.make()
        path = parent / f"{commit}.{attempt}"
        for left in sorted(parent.children(), key=VolumePath.size_on_disk, reverse=True):
            # What no attempt of ours can have left, such as a link, is dropped too.
            if left.name.startswith(commit) and path.status() is None and left.is_dir() and left.has_only_files():
                left.rename(path)
            else:
                left.remove()
        path.make()
        _set_partial_files_aside(path)
        return cls(path)

    def make_directories(self, names: Iterable[str]) -> None:
        """Makes the folders of the files. The directory itself must be there."""
        for parent in sorted({ancestor for name in names for ancestor in PurePosixPath(name).parents}):
            if parent != PurePosixPath():
                (self.path / str(parent)).make()

    def done(self, name: str, size_bytes: int) -> bool:
        """Returns whether the file is here and verified: only verified files ever get their own name."""
        return (self.path / name).size() == size_bytes

    def partial(self, name: str) -> VolumePath:
        """Returns where this attempt writes a file."""
        return self.path / (name + PARTIAL)

    def left_over(self, name: str) -> VolumePath:
        """Returns what an earlier attempt has left of a file: to be read, never to be written to."""
        return self.path / (name + LEFT_OVER)

    def sha256(self, name: str) -> str:
        """Returns the hash of a verified file whose hash the hub did not give."""
        return sha256_of(self.path / name)

    def keep(self, name: str) -> None:
        """Gives a verified file its name."""
        self.partial(name).rename(self.path / name)
        self.left_over(name).unlink()

    def publish(self, repository: RepositoryDirectory, manifest: Manifest) -> VolumePath:
        """Moves the whole model to its place by one rename.

        Where a broken one stands, its files are replaced one by one.
        """
        manifest.write(self.path)  # fails when a successor has taken the directory
        target = repository.snapshot(manifest.commit)
        target.parent.make()
        if target.status() and not target.is_dir():
            target.remove()  # a link, or something else that no worker has put there
        if not manifest.is_whole(self.path) or not self._rename_to(target):
            self._replace_files(target, manifest)
        target.parent.sync()
        if manifest.revision != manifest.commit:
            ref = repository.ref(manifest.revision)
            ref.parent.make()
            write_atomically(ref, manifest.commit)
        return target

    def _rename_to(self, target: VolumePath) -> bool:
        """Returns False where something stands already."""
        try:
            self.path.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return False
        return True

    def _replace_files(self, target: VolumePath, manifest: Manifest) -> None:
        if not target.is_dir():
            raise FileNotFoundError(errno.ENOENT, "the rest of the model has vanished", str(target))
        for file in manifest.files:
            if self.done(file.path, file.size_bytes):
                (target / file.path).parent.make()
                (self.path / file.path).rename(target / file.path)
        manifest.write(target)
        self.path.remove()


def _set_partial_files_aside(path: VolumePath) -> None:
    for partial, found in list(path.below()):
        if partial.name.endswith(PARTIAL):
            left = partial.with_name(partial.name.removesuffix(PARTIAL) + LEFT_OVER)
            if (left.size() or 0) > found.st_size:
                partial.unlink()
            else:
                partial.rename(left)
