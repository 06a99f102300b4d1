"""Content hashes as the hub has them: SHA-256 for large files, git's SHA-1 of a blob for small ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import BinaryIO

from handler.volume.path import VolumePath

BLOCK_BYTES = 4 << 20


class Digest:
    """Both hashes of a content that comes piece by piece and whose size is known."""

    def __init__(self, size_bytes: int) -> None:
        self._sha256 = hashlib.sha256()
        self._git = hashlib.sha1(b"blob %d\0" % size_bytes, usedforsecurity=False)
        self.seen_bytes = 0

    def update(self, block: bytes) -> None:
        """Adds the next piece."""
        self._sha256.update(block)
        self._git.update(block)
        self.seen_bytes += len(block)

    @property
    def sha256(self) -> str:
        """The SHA-256 of what came so far."""
        return self._sha256.hexdigest()

    @property
    def git_sha1(self) -> str:
        """The id that git gives to what came so far."""
        return self._git.hexdigest()


def copy(source: BinaryIO, digest: Digest, write: Callable[[bytes], object]) -> None:
    """Copies `source` to its end through the hash."""
    while block := source.read(BLOCK_BYTES):
        digest.update(block)
        write(block)


def sha256_of(path: VolumePath, on_bytes: Callable[[int], None] = lambda size_bytes: None) -> str:
    """Returns the hash of a file, read in blocks; raises OSError."""
    sha256 = hashlib.sha256()
    with path.open_file() as file:
        while block := file.read(BLOCK_BYTES):
            sha256.update(block)
            on_bytes(len(block))
    return sha256.hexdigest()
