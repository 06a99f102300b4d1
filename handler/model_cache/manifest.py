"""A model's manifest: its files with size and SHA-256.

It is written last, so its presence means that the model is whole.
"""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

MANIFEST_NAME = ".model-manifest.json"
VERSION = 1


@dataclass(frozen=True)
class ModelFile:
    """A file of the model; `path` is relative to the model's directory and never leaves it."""

    #: Relative to the model's directory, which it never leaves.
    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The record of a download: the revision as requested, the commit that it stood for, and the files."""

    repository: str
    revision: str
    commit: str
    files: tuple[ModelFile, ...]
    #: What was chosen where the repository offers a choice (`selection.Selection`).
    with_code: bool = False
    mistral_format: bool | None = None

    @property
    def size_bytes(self) -> int:
        """The bytes of all files together."""
        return sum(file.size_bytes for file in self.files)

    def is_whole(self, directory: Path) -> bool:
        """Returns whether every file is there in its size. Reads no content: `verification` finds a flipped bit."""
        return all(has_size(directory / file.path, file.size_bytes) for file in self.files)

    def serves(self, *, with_code: bool, mistral_format: bool) -> bool:
        """Returns whether these are the files that such a choice needs."""
        return (self.with_code or not with_code) and self.mistral_format in (None, mistral_format)

    def write(self, directory: Path) -> None:
        """Writes the manifest atomically, and returns when it is on the disk."""
        document = {"version": VERSION} | asdict(self)
        write_atomically(directory / MANIFEST_NAME, json.dumps(document, indent=1) + "\n")


def read(directory: Path) -> Manifest | None:
    """Returns the manifest of a model that is whole; None when it is missing or torn, or when files are short."""
    manifest = read_record(directory)
    return manifest if manifest is not None and manifest.is_whole(directory) else None


def read_record(directory: Path) -> Manifest | None:
    """Returns the manifest as it was written, whether or not the files are still there."""
    try:
        document = json.loads((directory / MANIFEST_NAME).read_text(encoding="utf-8"))
        if document.pop("version") != VERSION:
            return None
        files = tuple(ModelFile(**file) for file in document.pop("files"))
        manifest = Manifest(files=files, **document)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return manifest if files and all(is_inside(file.path) for file in files) else None


def is_inside(path: str) -> bool:
    """Returns whether a relative path stays in the directory that it is relative to."""
    parts = PurePosixPath(path)
    return bool(parts.parts) and not parts.is_absolute() and ".." not in parts.parts


def has_size(path: Path, size_bytes: int) -> bool:
    """Returns whether there is a file, or a link to one, of this size."""
    try:
        return path.stat().st_size == size_bytes
    except OSError:
        return False


def write_atomically(path: Path, text: str) -> None:
    """Replaces the file: a reader sees the old text or the new one, also after a power cut.

    Makes no directories: one that is gone was taken over, and must not come back half empty.
    """
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Makes renames in the directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems refuse, and do not need it
        pass
    finally:
        os.close(descriptor)
