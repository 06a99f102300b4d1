"""A model's manifest: which files it consists of, with size and SHA-256. Written last, so that it means "whole"."""

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

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What was downloaded: the revision as it was asked for, the commit it meant, and the files.

    with_code, mistral_format: what was chosen where the repository offers a choice (`selection.Selection`).
    """

    repository: str
    revision: str
    commit: str
    files: tuple[ModelFile, ...]
    with_code: bool = False
    mistral_format: bool | None = None

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(file.size_bytes for file in self.files)

    def is_whole(self, directory: Path) -> bool:
        """Every file is there in its size. Reads no content: a flipped bit is found by `verification`."""
        return all(has_size(directory / file.path, file.size_bytes) for file in self.files)

    def serves(self, *, with_code: bool, mistral_format: bool) -> bool:
        """Whether these are the files that such a choice asks for."""
        return (self.with_code or not with_code) and self.mistral_format in (None, mistral_format)

    def write(self, directory: Path) -> None:
        """Writes it atomically, and returns when it is on the disk."""
        document = {"version": VERSION} | asdict(self)
        write_atomically(directory / MANIFEST_NAME, json.dumps(document, indent=1) + "\n")


def read(directory: Path) -> Manifest | None:
    """The manifest of a model that is whole; None when missing, torn, of another version, or files short."""
    manifest = read_record(directory)
    return manifest if manifest is not None and manifest.is_whole(directory) else None


def read_record(directory: Path) -> Manifest | None:
    """The manifest as it was written, whether or not the files are still there."""
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
    """Whether a relative path stays in the directory that it is relative to."""
    parts = PurePosixPath(path)
    return bool(parts.parts) and not parts.is_absolute() and ".." not in parts.parts


def has_size(path: Path, size_bytes: int) -> bool:
    """Whether there is a file, or a link to one, of this size."""
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
    """Makes renames in it last. Some network file systems refuse to, and need not be asked."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
