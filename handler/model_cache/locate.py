"""Finds a model on this worker's disks, in order: a local path, the image, RunPod's cache, the volume."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from handler.errors import ModelRefused
from handler.model_cache import manifest
from handler.model_cache.completeness import is_whole_without_manifest
from handler.model_cache.layout import DEFAULT_REVISION, RepositoryDirectory
from handler.volume.path import VolumePath

logger = logging.getLogger(__name__)

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class ModelRequest:
    """A model or an adapter, as the user names it, and which of its files vLLM will ask for."""

    name: str
    revision: str = DEFAULT_REVISION
    #: Its Python files too.
    with_code: bool = False
    #: Mistral's own weights, where it has both.
    mistral_format: bool = True


@dataclass(frozen=True)
class ModelDirectory:
    """A directory that models may be in: `root/models--org--name/snapshots/...` or, in an image, `root/org/name`."""

    title: str
    root: Path
    #: This worker downloads there, so whatever has no manifest is not finished.
    own: bool = False


@dataclass(frozen=True)
class Located:
    """A whole model on a disk."""

    #: Its files, to be read by this worker.
    files: VolumePath
    #: The title of the directory where it was found.
    source: str

    @property
    def path(self) -> Path:
        """The file or directory for vLLM, which opens the files by itself."""
        return self.files.path


def local_path(name: str) -> Located | None:
    """Returns the file or directory of that name, None for a hub name; raises ModelRefused for a path to nothing."""
    try:
        path = Path(name).expanduser()
        exists = path.exists()
    except (OSError, RuntimeError) as error:  # a name that is too long; `~name` of an account that is not here
        raise ModelRefused(f"{name} cannot be used as a path: {error}") from error
    if exists:
        return Located(VolumePath.anywhere(path), "a local path")
    if name.startswith(("/", "./", "../", "~")):
        raise ModelRefused(f"{name}: there is no such file or directory (a hub name is written organisation/name)")
    return None


def is_hub_name(name: str) -> bool:
    """Returns whether it can be a repository's name. URLs and other loaders' names are left to vLLM."""
    return bool(HUB_NAME.fullmatch(name))


def locate(request: ModelRequest, directories: tuple[ModelDirectory, ...]) -> Located | None:
    """Returns the model in the first directory that has it whole, or None. It never uses the hub."""
    for directory in directories:
        if files := next(_whole(request, directory), None):
            return Located(files, directory.title)
    return None


def _whole(request: ModelRequest, directory: ModelDirectory) -> Iterator[VolumePath]:
    for files in _candidates(request, directory):
        if _is_whole(files, request, own=directory.own) and _is_inside(files):
            yield files


def _is_whole(files: VolumePath, request: ModelRequest, *, own: bool) -> bool:
    record = manifest.read_record(files)
    if record is None:
        return not own and is_whole_without_manifest(files)
    return record.is_whole(files) and record.serves(with_code=request.with_code, mistral_format=request.mistral_format)


def _is_inside(files: VolumePath) -> bool:
    """Returns whether vLLM, which follows links, would find nothing but files of this directory."""
    if files.has_only_files():
        return True
    logger.warning("%s is not used: it holds links that lead out of its directory, or special files", files)
    return False


def _candidates(request: ModelRequest, directory: ModelDirectory) -> Iterator[VolumePath]:
    repository = RepositoryDirectory.of(directory.root, request.name, links=not directory.own)
    yield from repository.candidates(request.revision)
    if directory.own:
        return
    if request.revision == DEFAULT_REVISION and repository.ref(DEFAULT_REVISION).status() is None:
        # RunPod's cache may bring its one snapshot without saying which revision it is.
        yield from _only_child(repository.snapshots)
    yield VolumePath(directory.root, links=True) / request.name


def _only_child(directory: VolumePath) -> list[VolumePath]:
    children = directory.children()
    return children if len(children) == 1 else []
