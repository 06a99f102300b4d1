"""The configuration of an endpoint apart from its scaling: the container, the GPUs and where workers may run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any, Literal

FlashBoot = Literal["OFF", "FLASHBOOT", "PRIORITY_FLASHBOOT"]

NO_VARIABLES: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class ContainerConfig:
    """The container of a template or of an endpoint. The emulator runs its worker command instead of the image."""

    image: str
    args: str = ""
    #: GB of disk that a worker loses when it stops.
    disk_gb: int = 20
    ports: tuple[str, ...] = ()
    #: Environment variables of the workers. They may be secrets, so no repr has them.
    env: Mapping[str, str] = field(default_factory=lambda: NO_VARIABLES, repr=False)
    #: The id of a registry's credentials.
    registry: str | None = None


@dataclass(frozen=True, kw_only=True)
class GpuSelection:
    """The GPUs of a worker: any type of these pools, in their order, that is not excluded."""

    pools: tuple[str, ...]
    excluded_types: tuple[str, ...] = ()
    count: int = 1
    allowed_cuda_versions: tuple[str, ...] = ()
    min_cuda_version: str | None = None


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """An endpoint as its owner has configured it. Worker bounds and scaling are in its settings."""

    name: str
    container: ContainerConfig
    gpu: GpuSelection
    data_center_ids: tuple[str, ...] = ()
    network_volumes: tuple[str, ...] = ()
    flashboot: FlashBoot = "OFF"
    #: The template that the endpoint was made from. Its later changes do not reach the endpoint.
    template_id: str | None = None


@dataclass(frozen=True)
class FieldChange:
    """One changed field, in the API's names. `old` and `new` are JSON."""

    field: str
    old: Any
    new: Any


@dataclass(frozen=True)
class ReleaseRecord:
    """One release in an endpoint's history."""

    id: str
    version: int
    created_at: datetime
    changes: tuple[FieldChange, ...] = field(repr=False)


#: The fields whose change makes a release, by the API's names for the entries of a release.
RELEASED = {
    "template.imageName": ("container", "image"),
    "template.dockerArgs": ("container", "args"),
    "template.containerDiskInGb": ("container", "disk_gb"),
    "template.ports": ("container", "ports"),
    "template.env": ("container", "env"),
    "template.containerRegistryAuthId": ("container", "registry"),
    "gpuPools": ("gpu", "pools"),
    "gpuExcludedTypes": ("gpu", "excluded_types"),
    "gpuCount": ("gpu", "count"),
    "allowedCudaVersions": ("gpu", "allowed_cuda_versions"),
    "minCudaVersion": ("gpu", "min_cuda_version"),
    "locations": ("data_center_ids",),
    "networkVolumes": ("network_volumes",),
    "flashBoot": ("flashboot",),
}


def differences(old: EndpointConfig, new: EndpointConfig) -> tuple[FieldChange, ...]:
    """Returns the changes that make a release. Another name makes none."""
    changes = (FieldChange(name, _json(old, path), _json(new, path)) for name, path in RELEASED.items())
    return tuple(change for change in changes if change.old != change.new)


def _json(config: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        config = getattr(config, name)
    if isinstance(config, tuple):
        return list(config)
    return dict(config) if isinstance(config, Mapping) else config


def first_config(endpoint_id: str, pool: str) -> EndpointConfig:
    """Returns the configuration of the endpoint that the emulator starts with. pool: of its GPUs."""
    return EndpointConfig(
        name=endpoint_id,
        container=ContainerConfig(image="runpod-emulator/worker:latest"),
        gpu=GpuSelection(pools=(pool,)),
    )
