"""Finds a model on this worker's disks, in order: a local path, the image, RunPod's cache, the volume."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from handler.errors import ModelRefused
from handler.model_cache import manifest
from handler.model_cache.completeness import is_whole_without_manifest
from handler.model_cache.layout import DEFAULT_REVISION, RepositoryDirectory

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

    path: Path
    #: The title of the directory where it was found.
    source: str


def local_path(name: str) -> Located | None:
    """Returns the file or directory of that name, None for a hub name; raises ModelRefused for a path to nothing."""
    try:
        path = Path(name).expanduser()
        exists = path.exists()
    except (OSError, RuntimeError) as error:  # a name that is too long; `~name` of an account that is not here
        raise ModelRefused(f"{name} cannot be used as a path: {error}") from error
    if exists:
        return Located(path, "a local path")
    if name.startswith(("/", "./", "../", "~")):
        raise ModelRefused(f"{name}: there is no such file or directory (a hub name is written organisation/name)")
    return None


def is_hub_name(name: str) -> bool:
    """Returns whether it can be a repository's name. URLs and other loaders' names are left to vLLM."""
    return bool(HUB_NAME.fullmatch(name))


def locate(request: ModelRequest, directories: tuple[ModelDirectory, ...]) -> Located | None:
    """Returns the model in the first directory that has it whole, or None. It never uses the hub."""
    for directory in directories:
        if path := next(_whole(request, directory), None):
            return Located(path, directory.title)
    return None


def _whole(request: ModelRequest, directory: ModelDirectory) -> Iterator[Path]:
    for path in _candidates(request, directory):
        record = manifest.read_record(path)
        if record is None:
            if not directory.own and is_whole_without_manifest(path):
                yield path
        elif record.is_whole(path) and record.serves(
            with_code=request.with_code, mistral_format=request.mistral_format
        ):
            yield path


def _candidates(request: ModelRequest, directory: ModelDirectory) -> Iterator[Path]:
    repository = RepositoryDirectory.of(directory.root, request.name)
    yield from repository.candidates(request.revision)
    if directory.own:
        return
    if request.revision == DEFAULT_REVISION and not repository.ref(DEFAULT_REVISION).exists():
        # RunPod's cache may bring its one snapshot without saying which revision it is.
        yield from _only_child(repository.snapshots)
    yield directory.root / request.name


def _only_child(directory: Path) -> list[Path]:
    try:
        children = list(directory.iterdir())
    except OSError:
        return []
    return children if len(children) == 1 else []
