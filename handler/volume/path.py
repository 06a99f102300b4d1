"""Files on a volume that others may write to: opened step by step from the volume's root, never through a planted link.

A network volume may be mounted by other endpoints, and whoever mounts it may put a link in the place of any directory.
So nothing here gives a path of several steps to the kernel: each directory is opened from the one before it, and the
last step happens inside the directory that is open. A link that appears between two steps stops the work, and moves it
nowhere else. Links, FIFOs, devices and hard links are refused where a file of our own is expected.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from handler.volume.opening import (
    DIRECTORY,
    LINK_IN_THE_WAY,
    NotOurs,
    foreign,
    is_plain,
    kind,
    open_root,
    open_step,
    parts_of,
)
from handler.volume.tree import entries_below, remove_tree

# A FIFO would wait for its writer; without O_NONBLOCK for ever.
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# A bound for what is walked through: no model has so many files.
MAX_ENTRIES = 100_000


@dataclass(frozen=True)
class VolumePath:
    """A path below a root. Whoever configured the root is trusted; what lies below it is not."""

    root: Path
    parts: tuple[str, ...] = ()
    #: Links are followed as far as they stay below the root, as in the cache of the hub's client. For reading only.
    links: bool = False

    @classmethod
    def anywhere(cls, path: Path) -> VolumePath:
        """Returns a path that a person has named, to be read through whatever links it has."""
        return cls(Path("/"), parts_of(path), links=True)

    def __truediv__(self, relative: str) -> VolumePath:
        """Returns a path below this one; raises ValueError for one that leads out of it."""
        steps = PurePosixPath(relative)
        if steps.is_absolute() or ".." in steps.parts or "\0" in relative:
            raise ValueError(f"{relative!r} leads out of its directory")
        return VolumePath(self.root, (*self.parts, *steps.parts), self.links)

    def __str__(self) -> str:
        """Returns the path as text, for messages."""
        return str(self.path)

    @property
    def path(self) -> Path:
        """The path for programs that open files by themselves, and for messages."""
        return self.root.joinpath(*self.parts)

    @property
    def name(self) -> str:
        """The last step."""
        return self.path.name

    @property
    def parent(self) -> VolumePath:
        """The directory that this is in."""
        return VolumePath(self.root, self.parts[:-1], self.links)

    def with_name(self, name: str) -> VolumePath:
        """Returns another entry of the same directory."""
        return self.parent / name

    @contextmanager
    def opened(self, *, make: bool = False) -> Iterator[int]:
        """Opens the directory, or with `make` makes it and those above it; raises OSError."""
        descriptor = open_root(self._base, make=make)
        try:
            for step in self._steps():
                inner = self._opened_step(descriptor, step, make=make)
                os.close(descriptor)
                descriptor = inner
            yield descriptor
        finally:
            os.close(descriptor)

    @property
    def _base(self) -> Path:
        return self.root.resolve() if self.links else self.root

    def _steps(self) -> tuple[str, ...]:
        """Returns the steps below the root without any link; raises NotOurs where links lead out of the root."""
        if not self.links:
            return self.parts
        try:
            path = self.path.resolve()
        except RuntimeError as error:  # so pathlib reports a link to itself, up to Python 3.12
            raise NotOurs(str(self), "it is a link to itself") from error
        if not path.is_relative_to(self._base):
            raise NotOurs(str(self), f"it leads out of {self.root}")
        return path.relative_to(self._base).parts

    def _opened_step(self, directory: int, step: str, *, make: bool) -> int:
        try:
            return open_step(step, DIRECTORY | os.O_NOFOLLOW, directory, make=make)
        except OSError as error:
            if error.errno in LINK_IN_THE_WAY:
                found = os.stat(step, dir_fd=directory, follow_symlinks=False)
                raise NotOurs(str(self), f"{step!r} is {kind(found)}, where a directory is expected") from error
            raise

    @contextmanager
    def _inside(self) -> Iterator[tuple[int, str]]:
        """Opens the directory that this is in; gives it and the last step."""
        steps = self._steps()
        if not steps:
            raise NotOurs(str(self), "it is the root itself")
        with VolumePath(self._base, steps[:-1]).opened() as inside:
            yield inside, steps[-1]

    def status(self) -> os.stat_result | None:
        """Returns what is there, itself and not what it links to; None for nothing, or behind a link."""
        try:
            with self._inside() as (directory, name):
                return os.stat(name, dir_fd=directory, follow_symlinks=False)
        except OSError:
            return None

    def is_dir(self) -> bool:
        """Returns whether it is a directory, and no link to one."""
        try:
            with self.opened():
                return True
        except OSError:
            return False

    def size(self) -> int | None:
        """Returns the bytes of a file of our own; None for anything else."""
        found = self.status()
        if found is None or not stat.S_ISREG(found.st_mode) or (found.st_nlink > 1 and not self.links):
            return None
        return found.st_size

    def names(self) -> list[str]:
        """Returns the names of the directory's entries, sorted; raises OSError."""
        with self.opened() as directory, os.scandir(directory) as entries:
            return sorted(entry.name for entry in entries)

    def children(self) -> list[VolumePath]:
        """Returns the directory's entries; none where it cannot be read."""
        try:
            return [self / name for name in self.names()]
        except OSError:
            return []

    def make(self) -> None:
        """Makes the directory and those above it, unless they are there; raises OSError."""
        with self.opened(make=True):
            pass

    def open_file(self, *, most_links: int = 1) -> BinaryIO:
        """Opens a regular file for reading; raises OSError, NotOurs for what is no file of our own.

        most_links: how many names the file may have.
        """
        with self._inside() as (directory, name):
            try:
                descriptor = os.open(name, READ, dir_fd=directory)
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise NotOurs(str(self), "it is a link, where a file is expected") from error
                raise
        try:
            self._check(os.fstat(descriptor), most_links)
        except NotOurs:
            os.close(descriptor)
            raise
        return os.fdopen(descriptor, "rb")

    def _check(self, found: os.stat_result, most_links: int) -> None:
        if not stat.S_ISREG(found.st_mode):
            raise NotOurs(str(self), f"it is {kind(found)}, where a file is expected")
        if found.st_nlink > most_links and not self.links:
            raise NotOurs(str(self), f"the file has {found.st_nlink} names (hard links)")

    def read(self, most_bytes: int, *, most_links: int = 1) -> bytes:
        """Returns the content of a file; raises OSError, also where there is more than `most_bytes`."""
        with self.open_file(most_links=most_links) as file:
            content = file.read(most_bytes + 1)
        if len(content) > most_bytes:
            raise NotOurs(str(self), f"it has more than {most_bytes} bytes")
        return content

    def create(self) -> BinaryIO:
        """Creates a file, to be written and read; raises FileExistsError where anything of that name is there."""
        with self._inside() as (directory, name):
            return os.fdopen(os.open(name, CREATE, 0o644, dir_fd=directory), "w+b")

    def create_anew(self) -> BinaryIO:
        """Creates a file in the place of whatever file or link has the name."""
        self.unlink()
        return self.create()

    def rename(self, target: VolumePath) -> None:
        """Gives this the place of `target`. A file or a link there is replaced, not followed."""
        with self._inside() as (source, name), target._inside() as (directory, new_name):
            os.rename(name, new_name, src_dir_fd=source, dst_dir_fd=directory)

    def hard_link(self, target: VolumePath) -> None:
        """Gives the file `target` as a second name; raises FileExistsError where that is taken."""
        with self._inside() as (source, name), target._inside() as (directory, new_name):
            os.link(name, new_name, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)

    def unlink(self) -> None:
        """Removes the file or link, unless it is not there."""
        with suppress(FileNotFoundError), self._inside() as (directory, name):
            os.unlink(name, dir_fd=directory)

    def remove(self) -> None:
        """Removes whatever is there: a directory with all below it, or a file, or a link and not its target."""
        with suppress(OSError), self._inside() as (directory, name):
            if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                remove_tree(name, directory)
            else:
                os.unlink(name, dir_fd=directory)

    def below(self) -> Iterator[tuple[VolumePath, os.stat_result]]:
        """Yields everything below the directory that is no directory, each with what it is itself.

        Directories inside one another end at a bound, with the first one beyond it.
        """
        with suppress(OSError), self.opened() as directory:
            for relative, found in entries_below(directory):
                yield self / relative, found

    def size_on_disk(self) -> int:
        """Returns the bytes of all files below the directory, or of the file. Some may be vanishing."""
        own = self.status()
        if own is None or not stat.S_ISDIR(own.st_mode):
            return own.st_size if own else 0
        return sum(found.st_size for _, found in self.below())

    def has_only_files(self) -> bool:
        """Returns whether there are only files of our own below the directory: no links out of the root, no devices."""
        for number, (path, found) in enumerate(self.below()):
            is_link = stat.S_ISLNK(found.st_mode) and self.links
            if number >= MAX_ENTRIES or (path.size() is None if is_link else not is_plain(found, links=self.links)):
                return False
        return True

    def sync(self) -> None:
        """Makes renames in the directory durable."""
        with self.opened() as directory, suppress(OSError):  # some network file systems refuse, and do not need it
            os.fsync(directory)

    def free_bytes(self) -> int:
        """Returns how much the directory's file system may still take."""
        with self.opened() as directory:
            return shutil.disk_usage(directory).free

    def distrusted_because(self) -> str | None:
        """Returns why somebody else may have written to the directory, in words; None for our own. Raises OSError."""
        with self.opened() as directory:
            return foreign(os.fstat(directory))
