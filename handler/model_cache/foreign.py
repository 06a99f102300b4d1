"""Models that others put on a disk, without a manifest: a hub cache, RunPod's cache, an image. Are they whole?"""

from __future__ import annotations

import json
import struct
from pathlib import Path

CONFIGURATIONS = ("config.json", "params.json", "adapter_config.json")
MAX_HEADER_BYTES = 100 << 20


def is_whole(directory: Path) -> bool:
    """A configuration, every shard that an index names, and no safetensors file shorter than its own header says."""
    if not any((directory / name).is_file() for name in CONFIGURATIONS) or _has_unfinished_blobs(directory):
        return False
    names = {path.name for path in directory.iterdir() if path.is_file()}  # a link to a missing blob is no file
    safetensors = {name for name in names if name.endswith(".safetensors")}
    weights = safetensors or {name for name in names if name.endswith((".bin", ".pt"))}
    wanted = _indexed(directory, ".safetensors" if safetensors else ".bin")
    return bool(weights) and wanted <= names and all(_is_untorn(directory / name) for name in safetensors)


def _indexed(directory: Path, ending: str) -> set[str]:
    """The shards named by the indexes of this format."""
    shards: set[str] = set()
    for index in directory.glob(f"*{ending}.index.json"):
        try:
            shards |= set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {index.name + " cannot be read"}
    return shards


def _has_unfinished_blobs(directory: Path) -> bool:
    """In the hub's cache, what is on its way has this ending, beside the snapshots."""
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
