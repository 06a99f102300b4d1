"""Decides whether an archive of compiled code on a volume may be run: by a signature, or by whose file it is.

On a volume that other endpoints mount, everything may belong to root, because every container is root there. Only a
signature tells their files from ours. Without a secret the owners and modes are checked, which keeps other users out.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, BinaryIO

from handler.volume.opening import foreign
from handler.volume.path import VolumePath

# The end of a signed archive. What reads tar files ignores what comes after their end.
MARK = b"vllm-worker-hmac-sha256:"
SIGNATURE_BYTES = len(MARK) + hashlib.sha256().digest_size
BLOCK_BYTES = 1 << 20
# A bound for what is copied to the worker's own disk.
MAX_ARCHIVE_BYTES = 8 << 30


class Distrusted(Exception):
    """Somebody else may have written the archive. The text says why, and what can be done."""


@dataclass(frozen=True)
class ArchiveTrust:
    """The conditions under which an archive is trusted."""

    #: Signs archives. All workers that are to share them have the same; None checks owners instead.
    secret: str | None = field(default=None, repr=False)
    #: Run whatever is there: nobody else has this volume.
    everything: bool = False


class SignedWriter:
    """Writes an archive, and its signature at the end where there is a secret."""

    def __init__(self, file: BinaryIO, name: str, trust: ArchiveTrust) -> None:
        self._file = file
        self._signature = _begun(name, trust.secret) if trust.secret else None

    def write(self, block: bytes) -> int:
        """Appends a block."""
        if self._signature:
            self._signature.update(block)
        return self._file.write(block)

    def sign(self) -> None:
        """Ends the archive."""
        if self._signature:
            self._file.write(MARK + self._signature.digest())


@contextmanager
def trusted_copy(archive: VolumePath, trust: ArchiveTrust) -> Iterator[IO[bytes]]:
    """Gives a copy on the worker's own disk, where nobody changes it after it was judged.

    Raises Distrusted, or OSError where it cannot be read.
    """
    with archive.open_file() as file, tempfile.TemporaryFile() as copy:
        if not trust.secret and not trust.everything:
            _check_owners(archive, file)
        size = os.fstat(file.fileno()).st_size
        if size > MAX_ARCHIVE_BYTES:
            raise Distrusted(f"it has {size} bytes, more than any compile cache")
        signed_bytes = size - SIGNATURE_BYTES if trust.secret else size
        signature = _begun(archive.name, trust.secret or "")
        while block := file.read(min(BLOCK_BYTES, max(0, signed_bytes - copy.tell()))):
            signature.update(block)
            copy.write(block)
        if trust.secret and not hmac.compare_digest(file.read(SIGNATURE_BYTES), MARK + signature.digest()):
            raise Distrusted("it is not signed with this worker's COMPILE_CACHE_SECRET")
        copy.seek(0)
        yield copy


def _check_owners(archive: VolumePath, file: BinaryIO) -> None:
    for what, reason in (
        (archive.parent, archive.parent.distrusted_because()),
        (archive, foreign(os.fstat(file.fileno()))),
    ):
        if reason:
            raise Distrusted(
                f"{what}: {reason}, and what is in it would be run. Set COMPILE_CACHE_SECRET, the same for all workers "
                "that share it, or COMPILE_CACHE_TRUST=true where nobody else has this volume"
            )


def _begun(name: str, secret: str) -> hmac.HMAC:
    # With the name, so that an archive of another key is not taken for this one's.
    return hmac.new(secret.encode(), name.encode() + b"\0", hashlib.sha256)
