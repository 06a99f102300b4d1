"""A model's files: config.json, and the bytes of its weights in memory, from file sizes or safetensors' own headers."""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vllm_service.deployment.unknown import Unknown

MOST_CONFIG_BYTES = 4 * 2**20
#: Of one safetensors file; the format allows 100 MB.
MOST_HEADER_BYTES = 100 * 10**6
#: Bytes of a number by safetensors' names of types.
TYPE_BYTES = {
    **{"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2},
    **{"F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I8": 1, "U8": 1, "BOOL": 1},
}
#: vLLM loads such weights as 16 bits, unless they belong to a quantised model (dtype auto, 0.32).
WIDE_TYPES = ("F32", "F64")


@dataclass(frozen=True, slots=True)
class Weights:
    """The bytes of a model's weights."""

    file_bytes: int
    #: By safetensors' names of types; None where only the files' sizes are known.
    numbers_by_type: Mapping[str, int] | None = None

    def loaded_bytes(self, *, is_quantized: bool) -> int:
        """Returns the bytes in memory, when vLLM loads the files as they are."""
        if self.numbers_by_type is None:
            return self.file_bytes
        narrow = () if is_quantized else WIDE_TYPES
        return sum(count * (2 if name in narrow else TYPE_BYTES[name]) for name, count in self.numbers_by_type.items())


@dataclass(frozen=True)
class ModelFiles:
    """A model's files, as far as they are known."""

    #: Where they were found, for people.
    source: str
    #: The hub's commit; None for a directory.
    commit: str | None
    config: Mapping[str, Any] | Unknown = field(repr=False)
    weights: Weights | Unknown


def of_directory(directory: Path) -> ModelFiles | Unknown:
    """Returns what the files of a directory say; Unknown where it cannot be read."""
    try:
        sizes = {path.name: path.stat().st_size for path in directory.iterdir() if path.is_file()}
    except OSError as error:
        return Unknown(f"{directory} cannot be read: {error.strerror or error}")
    config: Mapping[str, Any] | Unknown = Unknown(f"{directory} has no config.json")
    if "config.json" in sizes:
        config = _config_at(directory / "config.json", sizes["config.json"])
    numbers = numbers_by_type(directory / name for name in chosen(sizes) if name.endswith(".safetensors"))
    return ModelFiles(str(directory), None, config, weights_of(sizes, numbers))


def weights_of(sizes: Mapping[str, int], numbers: Mapping[str, int] | None) -> Weights | Unknown:
    """Returns the weights of a model. sizes: bytes by path. numbers: of safetensors' metadata, by type."""
    names = chosen(sizes)
    if not names:
        return Unknown("it has no weights in .safetensors or .bin files")
    return Weights(sum(sizes[name] for name in names), _understood(numbers or {}))


def _understood(numbers: Mapping[str, int]) -> Mapping[str, int] | None:
    """Returns the numbers by type; None where there are none, or a type or count that is not known."""
    is_known = all(name in TYPE_BYTES and isinstance(count, int) and count >= 0 for name, count in numbers.items())
    return dict(numbers) if numbers and is_known else None


def chosen(sizes: Mapping[str, int]) -> list[str]:
    """Returns the files that vLLM loads: safetensors before pickles, and no second form of the same weights."""
    top = [name for name in sizes if "/" not in name and sizes[name] > 0]
    tensors = [name for name in top if name.endswith(".safetensors") and not name.startswith("adapter_")]
    # Mistral's own form lies beside the usual one.
    usual = [name for name in tensors if not name.startswith("consolidated")]
    pickles = [name for name in top if name.startswith("pytorch_model") and name.endswith(".bin")]
    return sorted(usual or tensors or pickles)


def config_of(content: bytes, name: str) -> Mapping[str, Any] | Unknown:
    """Returns the document of a config.json; Unknown where it is none."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return Unknown(f"{name} is not valid JSON")
    return document if isinstance(document, dict) else Unknown(f"{name} is no JSON object")


def numbers_by_type(paths: Iterable[Path]) -> dict[str, int] | None:
    """Returns how many numbers of each type the files hold, by their headers; None where a header is not valid."""
    found: Counter[str] = Counter()
    try:
        for path in paths:
            for name, entry in _header(path).items():
                if name != "__metadata__":
                    found[entry["dtype"]] += _product(entry["shape"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error):
        return None
    return dict(found)


def _header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(MOST_HEADER_BYTES, path.stat().st_size):
            raise ValueError("the header is longer than the file")
        document = json.loads(file.read(length))
    return dict(document)


def _product(shape: list[int]) -> int:
    product = 1
    for size in shape:
        product *= max(int(size), 0)
    return product


def _config_at(path: Path, size: int) -> Mapping[str, Any] | Unknown:
    if size > MOST_CONFIG_BYTES:
        return Unknown(f"{path} is larger than {MOST_CONFIG_BYTES} bytes")
    try:
        return config_of(path.read_bytes(), str(path))
    except OSError as error:
        return Unknown(f"{path} cannot be read: {error.strerror or error}")
