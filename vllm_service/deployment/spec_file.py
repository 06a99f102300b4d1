"""Reads a deployment's specification from deploy.yaml and from the command line, whose arguments win."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import yaml

from vllm_service.catalog.yaml_file import Value, read_yaml
from vllm_service.deployment.spec import (
    ContainerForm,
    DeploymentSpec,
    EndpointType,
    Flashboot,
    LoraModule,
    Scaler,
    ScalerKind,
    Secret,
    SpecFaults,
    VolumeSpec,
)
from vllm_service.errors import ConfigurationFaults

Read = TypeVar("Read")
Choice = TypeVar("Choice", bound=StrEnum)

#: The word for "whichever pool holds the model and is the cheapest".
CHEAPEST = "cheapest"
#: RunPod's own value where a new endpoint names none (REST v2's schema of 2026-08).
DEFAULT_IDLE_TIMEOUT_SECONDS = 10
DEFAULT_REQUEST_COUNT = 4
DEFAULT_VOLUME_GB = 100
#: The torch of the pinned vLLM needs CUDA 13.0; a host with an older driver does not start the worker.
DEFAULT_MIN_CUDA_VERSION = "13.0"
#: The word for "no lowest version".
ANY = "any"

#: Keys of one value, in the order of the documentation.
TEXT_KEYS = (
    *("name", "model", "revision", "image", "min_cuda_version", "registry_id", "network_volume", "data_center"),
    *("kv_cache_dtype", "quantization"),
)
WHOLE_KEYS = (
    *("gpus_per_worker", "workers_min", "workers_max", "idle_timeout_seconds", "execution_timeout_seconds"),
    *("disk_gb", "network_volume_gb", "context_length", "concurrency"),
)
CHOICE_KEYS: Mapping[str, type[StrEnum]] = {
    "endpoint_type": EndpointType,
    "scaler": ScalerKind,
    "flashboot": Flashboot,
    "container": ContainerForm,
}
LIST_KEYS = ("gpu_pools",)
#: Keys of names and values. The command line's entries are added to the file's, and win where both have the name.
MAPPING_KEYS = ("lora_modules", "environment", "secrets")
KEYS = (*TEXT_KEYS, *WHOLE_KEYS, *CHOICE_KEYS, "scaler_value", *LIST_KEYS, *MAPPING_KEYS)
_FILE_HINT = "Name another with --file, or give model and image as arguments: --model, --image."
#: More digits than any of the numbers has.
_WHOLE = re.compile(r"[0-9]{1,12}")
#: What the arguments of a command line are, by key: a text, or several for lists and mappings.
Arguments = Mapping[str, str | Sequence[str]]


def read_spec(file: Path | None, arguments: Arguments) -> DeploymentSpec:
    """Returns the specification. Raises ConfigurationError with every mistake, a line each, with key and line number.

    arguments: by key; `NAME=VALUE` texts for the keys of names and values. They win over the file.
    """
    faults = ConfigurationFaults()
    given: dict[str, Value] = {}
    if file is not None:
        with faults:
            root = read_yaml(file, faults, hint=_FILE_HINT, empty_hint="it needs model and image at least")
            given = dict(root.section(KEYS))
    reader = _Reader(given, {key: _argument(key, value, faults) for key, value in arguments.items()}, faults)
    spec = _spec(reader)
    faults.raise_all()
    assert spec is not None
    return spec


def flag(key: str) -> str:
    """Returns the argument of a key: `--workers-max` of workers_max."""
    return "--" + key.replace("_", "-")


def _spec(reader: _Reader) -> DeploymentSpec | None:
    """Returns the specification; None where it cannot be made, with the mistakes in the reader's faults."""
    model = reader.needed("model", "the model to serve, such as Qwen/Qwen3-8B")
    endpoint_type = reader.choice("endpoint_type", EndpointType.QUEUE)
    scaler = _scaler(reader, endpoint_type)
    name = reader.text("name") or model.rstrip("/").rpartition("/")[2].lower()
    values = {
        "name": name,
        "model": model,
        "image": reader.needed("image", "the worker's image, such as YOU/vllm-worker:0.1.0"),
        "revision": reader.text("revision"),
        "gpu_pools": reader.pools(),
        "gpus_per_worker": reader.whole("gpus_per_worker", 1),
        "endpoint_type": endpoint_type,
        "workers_min": reader.whole("workers_min", 0),
        "workers_max": reader.whole("workers_max", 3),
        "idle_timeout_seconds": reader.whole("idle_timeout_seconds", _idle_timeout(endpoint_type, scaler)),
        "scaler": scaler,
        "execution_timeout_seconds": reader.whole("execution_timeout_seconds", 600),
        "flashboot": reader.choice("flashboot", Flashboot.FLASHBOOT),
        "disk_gb": reader.whole("disk_gb", None),
        "min_cuda_version": _min_cuda_version(reader),
        "registry_id": reader.text("registry_id"),
        "container": reader.choice("container", ContainerForm.INLINE),
        "volume": _volume(reader, name),
        "data_center": reader.text("data_center"),
        "lora_modules": tuple(LoraModule(*pair) for pair in reader.pairs("lora_modules")),
        "environment": reader.pairs("environment"),
        "secrets": tuple(Secret(*pair) for pair in reader.pairs("secrets")),
        "context_length": reader.whole("context_length", None),
        "concurrency": reader.whole("concurrency", 1),
        "kv_cache_dtype": reader.text("kv_cache_dtype") or "auto",
        "quantization": reader.text("quantization"),
    }
    if reader.faults and (not values["model"] or not values["image"]):
        # Nothing can be said of what is not there; what else is wrong has been found by its own reader.
        values |= {key: values[key] or "missing" for key in ("name", "model", "image")}
    try:
        return DeploymentSpec(**values)  # type: ignore[arg-type]  # the names are the fields'
    except SpecFaults as found:
        for fault in found.faults:
            reader.faults.add(reader.located(fault.key).wrong(fault.what))
    return None


def _scaler(reader: _Reader, endpoint_type: EndpointType) -> Scaler:
    by_count = endpoint_type is EndpointType.LOAD_BALANCER
    kind = reader.choice("scaler", ScalerKind.REQUEST_COUNT if by_count else ScalerKind.QUEUE_DELAY)
    return Scaler(kind, reader.read("scaler_value", Value.number, Decimal(DEFAULT_REQUEST_COUNT)))


def _idle_timeout(endpoint_type: EndpointType, scaler: Scaler) -> int | None:
    has_none = endpoint_type is EndpointType.QUEUE and scaler.kind is ScalerKind.REQUEST_COUNT
    return None if has_none else DEFAULT_IDLE_TIMEOUT_SECONDS


def _min_cuda_version(reader: _Reader) -> str | None:
    version = reader.text("min_cuda_version") or DEFAULT_MIN_CUDA_VERSION
    return None if version.lower() == ANY else version


def _volume(reader: _Reader, deployment: str) -> VolumeSpec | None:
    """Returns the volume, which has the deployment's name where only its size is given; None where neither is."""
    name = reader.text("network_volume")
    size_gb = reader.whole("network_volume_gb", None)
    if name is None and size_gb is None:
        return None
    return VolumeSpec(name or deployment, DEFAULT_VOLUME_GB if size_gb is None else size_gb)


class _Reader:
    """The values of a file and of a command line by key. Wrong ones become faults, and the default is returned."""

    def __init__(self, file: Mapping[str, Value], arguments: Mapping[str, Value], faults: ConfigurationFaults) -> None:
        self._file = file
        self._arguments = arguments
        self._given = {**file, **arguments}
        self.faults = faults

    def located(self, key: str) -> Value:
        """Returns the place that a mistake in this key is reported at: where it stands, else a place without a line."""
        name, _, entry = key.partition(".")
        for given in (self._arguments, self._file):
            if name in given and entry:
                inner = given[name].section().get(entry)
                if inner is not None:
                    return inner
        if name in self._given:
            return self._given[name]
        return Value(yaml.ScalarNode("", "", None, None), _WHERE_NOTHING_IS, key, self.faults)

    def read(self, key: str, read: Callable[[Value], Read], default: Read) -> Read:
        """Returns what `read` makes of the key's value; the default where it is not set or wrong."""
        if key in self._given:
            with self.faults:
                return read(self._given[key])
        return default

    def text(self, key: str) -> str | None:
        """Returns the key's text; None where it is not set."""
        return self.read(key, Value.text, None)

    def needed(self, key: str, what: str) -> str:
        """Returns the key's text; an empty one, and a fault, where it is not set."""
        if key not in self._given:
            self.faults.add(self.located(key).wrong(f"it is missing; add {what}, to the file or as {flag(key)}"))
        return self.text(key) or ""

    def whole(self, key: str, default: int | None) -> int | None:
        """Returns the key's whole number."""
        return self.read(key, _whole, default)

    def choice(self, key: str, default: Choice) -> Choice:
        """Returns one of the default's kind, written in small or in capital letters."""
        kind = type(default)
        by_name = {member.value.lower(): member for member in kind}
        return self.read(key, lambda value: _choice(value, by_name), default)

    def pools(self) -> tuple[str, ...]:
        """Returns the pools in their order; none stands for the cheapest."""
        return self.read("gpu_pools", _pools, ())

    def pairs(self, key: str) -> tuple[tuple[str, str], ...]:
        """Returns names and values, the command line's after the file's."""
        merged: dict[str, str] = {}
        for given in (self._file, self._arguments):
            if key in given:
                with self.faults:
                    merged |= _texts_of(given[key])
        return tuple(merged.items())


_WHERE_NOTHING_IS = Path("deployment")
_COMMAND_LINE = Path("command line")


def _texts_of(value: Value) -> dict[str, str]:
    read: dict[str, str] = {}
    for name, inner in value.section():
        with value.faults:
            read[name] = inner.text()
    return read


def _whole(value: Value) -> int:
    if not _WHOLE.fullmatch(text := value.text()):
        raise value.wrong(f"expected a whole number, got {text!r}")
    return int(text)


def _choice(value: Value, by_name: Mapping[str, Choice]) -> Choice:
    found = by_name.get(value.text().lower())
    return by_name[value.choice(by_name)] if found is None else found


def _pools(value: Value) -> tuple[str, ...]:
    if value.is_list:
        return value.words()
    if value.text().lower() != CHEAPEST:
        raise value.wrong(f"expected a list of RunPod's pools, such as [ADA_24, AMPERE_48], or {CHEAPEST}")
    return ()


def _argument(key: str, given: str | Sequence[str], faults: ConfigurationFaults) -> Value:
    """Returns an argument in the form of the file's value."""
    node: yaml.Node
    if key in MAPPING_KEYS:
        texts = [given] if isinstance(given, str) else list(given)
        # A secret's name alone, as in `--secrets HF_TOKEN`, is the local variable's name too.
        pairs = [_pair(text) for text in texts if "=" in text or key == "secrets"]
        if len(pairs) < len(texts):
            faults.add(Value(_scalar(""), _COMMAND_LINE, flag(key), faults).wrong("expected NAME=VALUE"))
        node = yaml.MappingNode("", pairs, None, None)
    elif key in LIST_KEYS and given != CHEAPEST:
        texts = given.split(",") if isinstance(given, str) else list(given)
        node = yaml.SequenceNode("", [_scalar(text.strip()) for text in texts], None, None)
    else:
        node = _scalar(given if isinstance(given, str) else " ".join(given))
    return Value(node, _COMMAND_LINE, flag(key), faults)


def _pair(text: str) -> tuple[yaml.Node, yaml.Node]:
    name, equals, value = text.partition("=")
    return _scalar(name), _scalar(value if equals else name)


def _scalar(text: str) -> yaml.Node:
    return yaml.ScalarNode("", text, None, None)
