"""Finds what is missing or torn in a directory of model files without a manifest; reads no weights."""

from __future__ import annotations

import json
import struct

from handler.volume.path import VolumePath

CONFIGURATIONS = ("config.json", "params.json", "adapter_config.json")
# The endings of weights that are checked here, the others that vLLM loads, and a bound for a torn header's claim.
SAFETENSORS = ".safetensors"
PICKLED = (".bin", ".pt", ".pth")
OTHER_WEIGHTS = (".gguf", ".npz", ".tensors", ".tensorizer")
MAX_HEADER_BYTES = 100 << 20
# A bound for configurations and indexes, which are read whole.
MAX_DOCUMENT_BYTES = 100 << 20


def is_whole_without_manifest(directory: VolumePath) -> bool:
    """Returns whether a model that others put here looks whole."""
    return not _has_unfinished_blobs(directory) and fault_of(directory) is None


def fault_of(directory: VolumePath) -> str | None:
    """Returns what is wrong with a directory of model files, None where it looks whole.

    It needs a configuration, weights, every shard that an index names, and no safetensors file that is shorter than its
    own header claims.
    """
    try:
        # A link to a missing blob has no size.
        names = {name for name in directory.names() if (directory / name).size() is not None}
    except OSError as error:
        return f"the directory cannot be read: {error.strerror}"
    return _fault_of_configuration(directory, names) or _fault_of_weights(directory, names)


def _fault_of_configuration(directory: VolumePath, names: set[str]) -> str | None:
    found = next((name for name in CONFIGURATIONS if name in names), None)
    if found is None:
        return f"it has no {' or '.join(CONFIGURATIONS)}"
    try:
        if isinstance(json.loads((directory / found).read(MAX_DOCUMENT_BYTES).decode()), dict):
            return None
    except (OSError, ValueError, RecursionError) as error:
        return f"{found} cannot be read: {error}"
    return f"{found} holds no JSON object"


def _fault_of_weights(directory: VolumePath, names: set[str]) -> str | None:
    safetensors = {name for name in names if name.endswith(SAFETENSORS)}
    weights = safetensors or {name for name in names if name.endswith(PICKLED)}
    if not weights and not any(name.endswith(OTHER_WEIGHTS) for name in names):
        return f"it has no weights (*{SAFETENSORS} or *.bin)"
    indexed = _indexed(directory, SAFETENSORS if safetensors or not weights else ".bin")
    if isinstance(indexed, str):
        return indexed
    if missing := sorted(indexed - names):
        return f"{len(missing)} of {len(indexed)} shards are missing: {', '.join(missing[:3])}"
    torn = next((name for name in sorted(safetensors) if not _is_untorn(directory / name)), None)
    return f"{torn} is truncated or no safetensors file" if torn else None


def _indexed(directory: VolumePath, ending: str) -> set[str] | str:
    """Returns the shards named by the indexes of this format, or what is wrong with an index."""
    shards: set[str] = set()
    for index in [child for child in directory.children() if child.name.endswith(f"{ending}.index.json")]:
        try:
            shards |= set(json.loads(index.read(MAX_DOCUMENT_BYTES))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return f"{index.name} cannot be read as an index"
    return shards


def _has_unfinished_blobs(directory: VolumePath) -> bool:
    """Returns whether the hub client's cache is still being filled: such files lie beside the snapshots."""
    return any(blob.name.endswith(".incomplete") for blob in (directory.parent.parent / "blobs").children())


def _is_untorn(path: VolumePath) -> bool:
    try:
        with path.open_file() as file:
            (header_bytes,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(header_bytes, MAX_HEADER_BYTES)))
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        return bool(path.size() == 8 + header_bytes + max(ends, default=0))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, struct.error):
        return False
