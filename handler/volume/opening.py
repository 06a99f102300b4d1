"""Opens directories one step at a time, and says what is not as this worker would have left it."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
LINK_IN_THE_WAY = (errno.ELOOP, errno.ENOTDIR)
OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


class NotOurs(OSError):
    """Something on a volume is not what this worker would have put there: a link, a special file, a hard link."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(errno.EPERM, f"{what}; remove it, or use another directory", path)


def parts_of(path: Path) -> tuple[str, ...]:
    """Returns the steps from the root of this machine, without dots."""
    return Path(os.path.normpath(path.absolute())).parts[1:]


def foreign(found: os.stat_result) -> str | None:
    """Returns why somebody else may write to it, in words; None where only this user and root may."""
    if found.st_uid not in (0, os.geteuid()):
        return f"it belongs to user {found.st_uid}"
    if found.st_mode & OTHERS_MAY_WRITE:
        return f"others may write to it (mode {stat.S_IMODE(found.st_mode):o})"
    return None


def open_root(root: Path, *, make: bool) -> int:
    """Opens the directory that was configured. It is no link itself; links above it must be this machine's own."""
    descriptor = os.open("/", DIRECTORY)
    own_device = os.fstat(descriptor).st_dev
    try:
        steps = parts_of(root)
        for number, step in enumerate(steps):
            may_follow = number < len(steps) - 1 and _is_own_link(step, descriptor, own_device)
            try:
                inner = open_step(step, DIRECTORY | (0 if may_follow else os.O_NOFOLLOW), descriptor, make=make)
            except OSError as error:
                raise _explained(error, root, step, descriptor) from error
            os.close(descriptor)
            descriptor = inner
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_step(step: str, flags: int, directory: int, *, make: bool) -> int:
    """Opens a directory inside another one, and with `make` makes it first where it is not there."""
    try:
        return os.open(step, flags, dir_fd=directory)
    except FileNotFoundError:
        if not make:
            raise
    with suppress(FileExistsError):
        os.mkdir(step, 0o755, dir_fd=directory)  # whatever the umask: what others may write to is not trusted
    return os.open(step, flags, dir_fd=directory)


def _explained(error: OSError, root: Path, step: str, directory: int) -> OSError:
    """Returns the error that says which step is a link."""
    if error.errno in LINK_IN_THE_WAY and is_link(step, directory):
        return NotOurs(str(root), f"{step!r} is a link: name the directory itself")
    return OSError(error.errno, error.strerror, str(root))


def _is_own_link(name: str, directory: int, own_device: int) -> bool:
    """Returns whether a link was made by this machine's owner: on its own disk, where nobody else may write."""
    if not is_link(name, directory):
        return False
    around, link = os.fstat(directory), os.stat(name, dir_fd=directory, follow_symlinks=False)
    is_guarded = around.st_dev == own_device and (around.st_mode & stat.S_ISVTX or foreign(around) is None)
    return bool(is_guarded and link.st_uid in (0, os.geteuid()))


def is_link(name: str, directory: int) -> bool:
    """Returns whether the entry of an open directory is a link."""
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    except OSError:
        return False


def is_plain(found: os.stat_result, *, links: bool) -> bool:
    """Returns whether it is a regular file, with `links` also one of several names."""
    return stat.S_ISREG(found.st_mode) and (links or found.st_nlink == 1)


def kind(found: os.stat_result) -> str:
    """Returns what something is, in words."""
    kinds = {stat.S_IFLNK: "a link", stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO", stat.S_IFREG: "a file"}
    return kinds.get(stat.S_IFMT(found.st_mode), "a device or socket")
