"""A model's manifest: its files with size and SHA-256.

It is written last, so its presence means that the model is whole.
"""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath

from handler.volume.path import VolumePath

MANIFEST_NAME = ".model-manifest.json"
VERSION = 1
MAX_MANIFEST_BYTES = 64 << 20


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

    def is_whole(self, directory: VolumePath) -> bool:
        """Returns whether every file is there in its size. Reads no content: `verification` finds a flipped bit."""
        return all((directory / file.path).size() == file.size_bytes for file in self.files)

    def serves(self, *, with_code: bool, mistral_format: bool) -> bool:
        """Returns whether these are the files that such a choice needs."""
        return (self.with_code or not with_code) and self.mistral_format in (None, mistral_format)

    def write(self, directory: VolumePath) -> None:
        """Writes the manifest atomically, and returns when it is on the disk."""
        document = {"version": VERSION} | asdict(self)
        write_atomically(directory / MANIFEST_NAME, json.dumps(document, indent=1) + "\n")


def read(directory: VolumePath) -> Manifest | None:
    """Returns the manifest of a model that is whole; None when it is missing or torn, or when files are short."""
    manifest = read_record(directory)
    return manifest if manifest is not None and manifest.is_whole(directory) else None


def read_record(directory: VolumePath) -> Manifest | None:
    """Returns the manifest as it was written, whether or not the files are still there."""
    try:
        document = json.loads((directory / MANIFEST_NAME).read(MAX_MANIFEST_BYTES))
        if document.pop("version") != VERSION:
            return None
        files = tuple(ModelFile(**file) for file in document.pop("files"))
        manifest = Manifest(files=files, **document)
        if not isinstance(manifest.commit, str) or not all(isinstance(file.path, str) for file in files):
            return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return manifest if files and all(is_inside(file.path) for file in files) else None


def is_inside(path: str) -> bool:
    """Returns whether a relative path stays in the directory that it is relative to."""
    parts = PurePosixPath(path)
    return bool(parts.parts) and not parts.is_absolute() and ".." not in parts.parts and "\0" not in path


def write_atomically(path: VolumePath, text: str) -> None:
    """Replaces the file: a reader sees the old text or the new one, also after a power cut.

    Makes no directories: one that is gone was taken over, and must not come back half empty.
    """
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    with temporary.create() as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    path.parent.sync()
