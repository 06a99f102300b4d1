"""Walks and removes what is below an open directory, however deep somebody has nested it."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from handler.volume.opening import DIRECTORY

#: No model has so many directories inside one another. Each step takes a frame and a descriptor.
DEEPEST = 64


def entries_below(directory: int, folder: str = "", depth: int = 0) -> Iterator[tuple[str, os.stat_result]]:
    """Yields what is no directory, by its relative path, and each directory that is too deep to be looked into."""
    for name in os.listdir(directory):
        with suppress(OSError):
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            path = f"{folder}{name}"
            if not stat.S_ISDIR(found.st_mode) or depth >= DEEPEST:
                yield path, found
                continue
            with _opened(name, directory) as inner:
                yield from entries_below(inner, f"{path}/", depth + 1)


def remove_tree(name: str, parent: int) -> None:
    """Removes a directory as far as that is allowed. Raises OSError where it is not there, or a link."""
    with _opened(name, parent) as top:
        # What is too deep has moved to the top, where the next pass finds it.
        while _empty(top, top, 0):
            pass
    os.rmdir(name, dir_fd=parent)


def _empty(top: int, directory: int, depth: int) -> bool:
    """Removes what is in the directory; returns whether something was too deep and has moved to the top."""
    has_moved = False
    for name in os.listdir(directory):
        with suppress(OSError):
            if not stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=directory)
            elif depth >= DEEPEST:
                os.rename(name, f"deep-{secrets.token_hex(8)}", src_dir_fd=directory, dst_dir_fd=top)
                has_moved = True
            else:
                with _opened(name, directory) as inner:
                    has_moved |= _empty(top, inner, depth + 1)
                os.rmdir(name, dir_fd=directory)
    return has_moved


@contextmanager
def _opened(name: str, directory: int) -> Iterator[int]:
    descriptor = os.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
