"""Finds a model on this worker's disks, in order: a local path, the image, RunPod's cache, the volume."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from handler.errors import ModelRefused
from handler.model_cache import foreign, manifest
from handler.model_cache.layout import DEFAULT_REVISION, RepositoryDirectory

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class ModelRequest:
    """A model or an adapter, as the user names it, and which of its files vLLM will ask for.

    with_code: its Python files too. mistral_format: Mistral's own weights, where it has both.
    """

    name: str
    revision: str = DEFAULT_REVISION
    with_code: bool = False
    mistral_format: bool = True


@dataclass(frozen=True)
class Place:
    """A directory that models may be in: `root/models--org--name/snapshots/...` or, in an image, `root/org/name`.

    own: this worker downloads there, so that whatever has no manifest is not finished.
    """

    title: str
    root: Path
    own: bool = False


@dataclass(frozen=True)
class Located:
    """A whole model on a disk; `place` is the title of where it was found."""

    path: Path
    place: str


def local_path(name: str) -> Located | None:
    """The directory or file of that name; None for a hub name. Raises ModelRefused for a path that is not there."""
    path = Path(name).expanduser()
    if path.exists():
        return Located(path, "a local path")
    if name.startswith(("/", "./", "../", "~")):
        raise ModelRefused(
            f"MODEL_NAME={name}: there is no such file or directory (a hub name is written organisation/name)",
            param="MODEL_NAME",
        )
    return None


def is_hub_name(name: str) -> bool:
    """Whether it can be a repository's name; URLs and other loaders' names are left to vLLM."""
    return bool(HUB_NAME.fullmatch(name))


def locate(request: ModelRequest, places: tuple[Place, ...]) -> Located | None:
    """The first place that has the whole model. Never asks the hub."""
    for place in places:
        if path := next(_whole(request, place), None):
            return Located(path, place.title)
    return None


def _whole(request: ModelRequest, place: Place) -> Iterator[Path]:
    for path in _candidates(request, place):
        record = manifest.read_record(path)
        if record is None:
            if not place.own and foreign.is_whole(path):
                yield path
        elif record.is_whole(path) and record.serves(
            with_code=request.with_code, mistral_format=request.mistral_format
        ):
            yield path


def _candidates(request: ModelRequest, place: Place) -> Iterator[Path]:
    repository = RepositoryDirectory.of(place.root, request.name)
    yield from repository.candidates(request.revision)
    if place.own:
        return
    if request.revision == DEFAULT_REVISION and not repository.ref(DEFAULT_REVISION).exists():
        # RunPod's cache may bring its one snapshot without saying which revision it is.
        yield from _only_child(repository.snapshots)
    yield place.root / request.name


def _only_child(directory: Path) -> list[Path]:
    try:
        children = list(directory.iterdir())
    except OSError:
        return []
    return children if len(children) == 1 else []
