"""Finds a model on this worker's disks, in order: a local path, the image, RunPod's cache, the volume."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from handler.errors import ModelRefused
from handler.model_cache import manifest
from handler.model_cache.layout import DEFAULT_REVISION, RepositoryDirectory

# Without a manifest: what makes a directory a model, and a bound for what a torn header may claim.
CONFIGURATIONS = ("config.json", "params.json", "adapter_config.json")
MAX_HEADER_BYTES = 100 << 20
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


def is_whole_without_manifest(directory: Path) -> bool:
    """Returns whether a model that others put here looks whole.

    It needs a configuration, every shard that an index names, and no safetensors file shorter than its own header
    claims.
    """
    if not any((directory / name).is_file() for name in CONFIGURATIONS) or _has_unfinished_blobs(directory):
        return False
    names = {path.name for path in directory.iterdir() if path.is_file()}  # a link to a missing blob is no file
    safetensors = {name for name in names if name.endswith(".safetensors")}
    weights = safetensors or {name for name in names if name.endswith((".bin", ".pt"))}
    wanted = _indexed(directory, ".safetensors" if safetensors else ".bin")
    return bool(weights) and wanted <= names and all(_is_untorn(directory / name) for name in safetensors)


def _indexed(directory: Path, ending: str) -> set[str]:
    """Returns the shards named by the indexes of this format."""
    shards: set[str] = set()
    for index in directory.glob(f"*{ending}.index.json"):
        try:
            shards |= set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {index.name + " cannot be read"}
    return shards


def _has_unfinished_blobs(directory: Path) -> bool:
    """Returns whether the hub client's cache is still being filled: such files lie beside the snapshots."""
    return any((directory.parent.parent / "blobs").glob("*.incomplete"))


def _is_untorn(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            (header_bytes,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(header_bytes, MAX_HEADER_BYTES)))
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        return bool(path.stat().st_size == 8 + header_bytes + max(ends, default=0))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, struct.error):
        return False
