"""The frozen specification of a deployment: one model on one RunPod endpoint."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

from vllm_service.errors import ConfigurationError


class EndpointType(StrEnum):
    """The way by which RunPod brings requests to workers."""

    QUEUE = "QUEUE"
    LOAD_BALANCER = "LOAD_BALANCER"


class ScalerKind(StrEnum):
    """The signal by which RunPod adds workers."""

    QUEUE_DELAY = "QUEUE_DELAY"
    REQUEST_COUNT = "REQUEST_COUNT"


class Flashboot(StrEnum):
    """RunPod's ways to keep a stopped worker's state for a faster start."""

    OFF = "OFF"
    FLASHBOOT = "FLASHBOOT"
    PRIORITY_FLASHBOOT = "PRIORITY_FLASHBOOT"


class ContainerForm(StrEnum):
    """The home of the container's settings: the endpoint itself, or a template that others can use too."""

    INLINE = "inline"
    TEMPLATE = "template"


@dataclass(frozen=True, slots=True)
class Scaler:
    """The scaler's signal, with seconds of waiting or a number of requests."""

    kind: ScalerKind
    value: Decimal


@dataclass(frozen=True, slots=True)
class VolumeSpec:
    """A network volume, which is found by its name or made."""

    name: str
    size_gb: int


@dataclass(frozen=True, slots=True)
class LoraModule:
    """An adapter that vLLM serves under a name of its own. path: a directory in the worker, or a repository."""

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class Secret:
    """A variable of the worker whose value stands in a variable of this machine. The value itself is never kept."""

    variable: str
    local_variable: str


#: RunPod's own default, by its documentation of 2026-08.
DEFAULT_SCALER = Scaler(ScalerKind.QUEUE_DELAY, Decimal(4))
#: Longer waits and more requests than any worker has: a typing error.
MOST_SCALER_VALUE = 1_000_000


class SpecFault(ConfigurationError):
    """A mistake in one field; `param` is its key."""

    def __init__(self, key: str, what: str) -> None:
        super().__init__(f"{key}: {what}", param=key)
        self.key = key
        self.what = what


class SpecFaults(ConfigurationError):
    """The mistakes of one specification, a line each."""

    def __init__(self, faults: tuple[SpecFault, ...]) -> None:
        super().__init__("\n".join(fault.message for fault in faults), param=faults[0].key)
        self.faults = faults


#: Bounds of RunPod's REST v2, from its published schema of 2026-08.
IDLE_TIMEOUT_SECONDS = (1, 3600)
VOLUME_GB = (10, 4096)
LEAST_QUEUE_DELAY_SECONDS = Decimal("0.5")
#: RunPod's documentation of 2026-08: from 5 s to 7 days.
EXECUTION_TIMEOUT_SECONDS = (5, 604_800)
#: More than one machine of RunPod has, or a model can use: a typing error.
MOST_GPUS_PER_WORKER = 64
MOST_WORKERS = 1000
MOST_TOKENS = 100_000_000
#: The worker's variables that follow from other keys, with the key that sets them.
SET_BY_KEY = {
    "DEPLOYMENT_NAME": "name",
    "MODEL_NAME": "model",
    "MODEL": "model",
    "VLLM_MODEL": "model",
    "MODEL_REVISION": "revision",
    "REVISION": "revision",
    "VLLM_REVISION": "revision",
    "TENSOR_PARALLEL_SIZE": "gpus_per_worker",
    "VLLM_TENSOR_PARALLEL_SIZE": "gpus_per_worker",
    "MAX_MODEL_LEN": "context_length",
    "VLLM_MAX_MODEL_LEN": "context_length",
    "KV_CACHE_DTYPE": "kv_cache_dtype",
    "VLLM_KV_CACHE_DTYPE": "kv_cache_dtype",
    "QUANTIZATION": "quantization",
    "VLLM_QUANTIZATION": "quantization",
    "LORA_MODULES": "lora_modules",
    "ENABLE_LORA": "lora_modules",
}
#: The worker's variable for vLLM's share of a GPU's memory, its names in the order in which the worker takes them.
MEMORY_SHARE_VARIABLES = ("GPU_MEMORY_UTILIZATION", "VLLM_GPU_MEMORY_UTILIZATION")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: Capital letters only: most secrets have small ones too, and a name is repeated in messages.
_LOCAL_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,79}")
_SECRET_NAME = re.compile(r"(^|_)(TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
_SHARE = re.compile(r"[01](\.[0-9]{1,10})?")
_CUDA = re.compile(r"\d+\.\d+")


@dataclass(frozen=True)
class DeploymentSpec:
    """One model on one endpoint. Raises SpecFaults, with every mistake, when it is made of values that contradict."""

    #: The endpoint's name at RunPod, by which it is found again.
    name: str
    #: A repository of the hub (organisation/name), or a directory of the worker.
    model: str
    #: The worker's image, with a tag or digest.
    image: str
    #: A branch, tag or commit of the model; None is the main branch.
    revision: str | None = None
    #: RunPod's GPU pools in the order of preference; empty stands for the cheapest that holds the model.
    gpu_pools: tuple[str, ...] = ()
    #: GPUs of one worker, among which vLLM shards the model (tensor parallelism).
    gpus_per_worker: int = 1
    endpoint_type: EndpointType = EndpointType.QUEUE
    workers_min: int = 0
    workers_max: int = 3
    #: None where RunPod has none: queue endpoints that scale by request count.
    idle_timeout_seconds: int | None = None
    scaler: Scaler = DEFAULT_SCALER
    execution_timeout_seconds: int = 600
    flashboot: Flashboot = Flashboot.FLASHBOOT
    #: The container's disk; None leaves it to RunPod.
    disk_gb: int | None = None
    #: The lowest CUDA version of a host; None accepts any.
    min_cuda_version: str | None = None
    #: RunPod's id of the credentials for a private registry.
    registry_id: str | None = None
    container: ContainerForm = ContainerForm.INLINE
    volume: VolumeSpec | None = None
    #: RunPod's id of the data centre, such as EU-RO-1; None leaves the choice to RunPod.
    data_center: str | None = None
    lora_modules: tuple[LoraModule, ...] = ()
    #: Variables of the worker with their values, beside those that other fields make.
    environment: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    secrets: tuple[Secret, ...] = ()
    #: Tokens of the longest conversation; None is the model's own.
    context_length: int | None = None
    #: Conversations of that length for which the KV cache has to have room at the same time. It chooses the pool only:
    #: vLLM runs more of shorter ones.
    concurrency: int = 1
    #: vLLM's names: auto (the model's own), bfloat16, float16, fp8, fp8_e4m3, fp8_e5m2.
    kv_cache_dtype: str = "auto"
    #: vLLM's name of a method; None takes what the model's files say.
    quantization: str | None = None

    def __post_init__(self) -> None:
        faults = tuple(_faults(self))
        if faults:
            raise SpecFaults(faults)

    @property
    def takes_cheapest(self) -> bool:
        """True where the pool is to be the cheapest that holds the model."""
        return not self.gpu_pools

    @property
    def gpu_memory_share(self) -> Decimal | None:
        """vLLM's share of a GPU's memory, where the environment sets it."""
        given = dict(self.environment)
        return next((Decimal(given[name]) for name in MEMORY_SHARE_VARIABLES if name in given), None)


def is_secret_name(variable: str) -> bool:
    """Returns true for a variable that by its name holds a secret, such as HF_TOKEN."""
    return _SECRET_NAME.search(variable) is not None


def _faults(spec: DeploymentSpec) -> Iterator[SpecFault]:
    yield from _texts(spec)
    yield from _numbers(spec)
    yield from _workers(spec)
    yield from _scaling(spec)
    yield from _volume(spec)
    yield from _variables(spec)
    yield from _adapters(spec)


def _texts(spec: DeploymentSpec) -> Iterator[SpecFault]:
    for key in ("name", "model", "image"):
        text = getattr(spec, key)
        if not text.strip() or not text.isprintable():
            yield SpecFault(key, "expected printable text")
    if any(mark.isspace() for mark in spec.image):
        yield SpecFault("image", "an image's name has no spaces: REGISTRY/NAME:TAG")
    for pool in spec.gpu_pools:
        if spec.gpu_pools.count(pool) > 1:
            yield SpecFault("gpu_pools", f"{pool} is here twice; remove one")
            break
    if spec.min_cuda_version is not None and not _CUDA.fullmatch(spec.min_cuda_version):
        yield SpecFault("min_cuda_version", f"expected a version such as 13.0, got {spec.min_cuda_version!r}")


def _numbers(spec: DeploymentSpec) -> Iterator[SpecFault]:
    bounds: tuple[tuple[str, int | None, int, int], ...] = (
        ("gpus_per_worker", spec.gpus_per_worker, 1, MOST_GPUS_PER_WORKER),
        ("workers_min", spec.workers_min, 0, MOST_WORKERS),
        ("workers_max", spec.workers_max, 1, MOST_WORKERS),
        ("idle_timeout_seconds", spec.idle_timeout_seconds, *IDLE_TIMEOUT_SECONDS),
        ("execution_timeout_seconds", spec.execution_timeout_seconds, *EXECUTION_TIMEOUT_SECONDS),
        ("disk_gb", spec.disk_gb, 1, 100_000),
        ("context_length", spec.context_length, 1, MOST_TOKENS),
        ("concurrency", spec.concurrency, 1, 100_000),
    )
    for key, value, least, most in bounds:
        if value is not None and not least <= value <= most:
            yield SpecFault(key, f"expected a whole number from {least} to {most}, got {value}")


def _workers(spec: DeploymentSpec) -> Iterator[SpecFault]:
    if spec.workers_min > spec.workers_max:
        yield SpecFault("workers_min", f"{spec.workers_min} is more than workers_max, {spec.workers_max}; lower it")


def _scaling(spec: DeploymentSpec) -> Iterator[SpecFault]:
    by_count = spec.scaler.kind is ScalerKind.REQUEST_COUNT
    if not spec.scaler.value.is_finite() or spec.scaler.value > MOST_SCALER_VALUE:
        yield SpecFault("scaler_value", f"expected a number of at most {MOST_SCALER_VALUE}")
        return
    if spec.endpoint_type is EndpointType.LOAD_BALANCER and not by_count:
        yield SpecFault("scaler", "a load-balancing endpoint has no queue; write scaler: request_count")
    if by_count and (spec.scaler.value < 1 or spec.scaler.value != spec.scaler.value.to_integral_value()):
        yield SpecFault("scaler_value", f"expected a whole number of requests of at least 1, got {spec.scaler.value}")
    if not by_count and spec.scaler.value < LEAST_QUEUE_DELAY_SECONDS:
        yield SpecFault("scaler_value", f"expected at least {LEAST_QUEUE_DELAY_SECONDS} s, got {spec.scaler.value}")
    if by_count and spec.endpoint_type is EndpointType.QUEUE and spec.idle_timeout_seconds is not None:
        yield SpecFault(
            "idle_timeout_seconds",
            "RunPod has no idle time-out on queue endpoints that scale by request count; remove it, or write "
            "scaler: queue_delay",
        )


def _volume(spec: DeploymentSpec) -> Iterator[SpecFault]:
    if spec.volume is None:
        return
    least, most = VOLUME_GB
    if not spec.volume.name.strip():
        yield SpecFault("network_volume", "expected a name")
    if not least <= spec.volume.size_gb <= most:
        yield SpecFault(
            "network_volume_gb", f"expected a whole number from {least} to {most}, got {spec.volume.size_gb}"
        )
    if spec.data_center is None:
        yield SpecFault("data_center", "a network volume lies in one data centre; name it: data_center: EU-RO-1")


def _variables(spec: DeploymentSpec) -> Iterator[SpecFault]:
    in_environment = [name for name, _ in spec.environment]
    yield from _names("environment", in_environment)
    yield from _names("secrets", [secret.variable for secret in spec.secrets])
    for name in filter(is_secret_name, in_environment):
        yield SpecFault(
            f"environment.{name}",
            "a secret must not stand in a file; put it into a variable of this machine, and its name here: "
            f"secrets: {{{name}: {name}}}",
        )
    yield from _memory_share(spec)
    for secret in spec.secrets:
        key = f"secrets.{secret.variable}"
        if secret.variable in in_environment:
            yield SpecFault(key, "the variable is in environment too; remove one")
        if not _LOCAL_VARIABLE.fullmatch(secret.local_variable):
            # The text is not repeated: it may be the secret itself.
            yield SpecFault(
                key, "expected the name of a variable of this machine, in capital letters, and not the value"
            )


def _names(key: str, names: list[str]) -> Iterator[SpecFault]:
    for name in names:
        if not _VARIABLE.fullmatch(name):
            yield SpecFault(f"{key}.{name}", "expected a variable's name, of letters, digits and _")
        elif name in SET_BY_KEY:
            yield SpecFault(f"{key}.{name}", f"this variable follows from {SET_BY_KEY[name]}; set that")


def _memory_share(spec: DeploymentSpec) -> Iterator[SpecFault]:
    for name, text in spec.environment:
        if name in MEMORY_SHARE_VARIABLES and not (_SHARE.fullmatch(text) and 0 < Decimal(text) <= 1):
            yield SpecFault(f"environment.{name}", f"expected a share above 0 and up to 1, such as 0.9, got {text!r}")


def _adapters(spec: DeploymentSpec) -> Iterator[SpecFault]:
    names = [module.name for module in spec.lora_modules]
    for module in spec.lora_modules:
        if not module.name or any(mark.isspace() or mark == "=" for mark in module.name):
            yield SpecFault("lora_modules", f"{module.name!r} is no name: it must have no spaces and no =")
        elif names.count(module.name) > 1:
            yield SpecFault("lora_modules", f"{module.name} is here twice; remove one")
            return
