"""The bodies that create and change an endpoint, as RunPod's schema of 2026-08 has them."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from runpod_emulator.api.rest.door import StrictBody

CudaVersion = Annotated[str, StringConstraints(pattern=r"^\d+\.\d+$", max_length=20)]
#: An empty one clears the floor.
CudaFloor = Annotated[str, StringConstraints(pattern=r"^$|^\d+\.\d+$", max_length=20)]
#: Neither may hold what no process's environment can.
VariableName = Annotated[str, StringConstraints(pattern=r"^[^=\x00]+$")]
VariableText = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=100_000)]
GpuTypeId = Annotated[str, StringConstraints(pattern=r"^\s*[^-\s]", strip_whitespace=True)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Whole = Annotated[int, Field(ge=0, le=2**31)]
FromOne = Annotated[int, Field(ge=1, le=2**31)]


class ContainerBody(StrictBody):
    """The container of an endpoint or of a template."""

    image: Annotated[str, StringConstraints(min_length=1)] | None = None
    args: str | None = None
    disk: FromOne | None = None
    env: dict[VariableName, VariableText] | None = None
    ports: list[str] | None = None
    #: Null takes the credentials away.
    registry: str | None = None
    nullable: ClassVar[frozenset[str]] = frozenset({"registry"})


class WorkersBody(StrictBody):
    """The bounds of the workers, and how long one idles (seconds)."""

    min: Whole | None = None
    max: Whole | None = None
    idle_timeout: Annotated[int, Field(ge=1, le=3600)] | None = None


class QueueDelayBody(StrictBody):
    """Scaling by how long jobs wait (seconds)."""

    type: Literal["QUEUE_DELAY"]
    queue_delay: Annotated[float, Field(ge=0.5, le=1e9, allow_inf_nan=False)]


class RequestCountBody(StrictBody):
    """Scaling by how many jobs there are."""

    type: Literal["REQUEST_COUNT"]
    request_count: Annotated[int, Field(ge=1, le=2**31)]


Scaling = Annotated[QueueDelayBody | RequestCountBody, Field(discriminator="type")]


class GpuBody(StrictBody):
    """A change of the GPUs."""

    pools: Annotated[list[str], Field(min_length=1, max_length=100)] | None = None
    excluded_types: Annotated[list[GpuTypeId], Field(max_length=100)] | None = None
    count: Annotated[int, Field(ge=1, le=64)] | None = None
    allowed_cuda_versions: list[CudaVersion] | None = None
    min_cuda_version: CudaFloor | None = None


class CreateGpuBody(GpuBody):
    """The GPUs of a new endpoint."""

    pools: Annotated[list[str], Field(min_length=1, max_length=100)]
    min_cuda_version: CudaVersion | None = None


class CpuBody(StrictBody):
    """One CPU flavor."""

    id: Annotated[str, StringConstraints(min_length=1)]
    vcpu_count: Annotated[int, Field(ge=2)]


class UpdateEndpointBody(ContainerBody):
    """The fields to change; the others stay."""

    name: Name | None = None
    gpu: GpuBody | None = None
    cpu: Annotated[list[CpuBody], Field(min_length=1)] | None = None
    workers: WorkersBody | None = None
    scaling: Scaling | None = None
    data_center_ids: Annotated[list[str], Field(max_length=100)] | None = None
    network_volumes: Annotated[list[str], Field(max_length=100)] | None = None
    flashboot: Literal["OFF", "FLASHBOOT", "PRIORITY_FLASHBOOT"] | None = None
    template_id: Annotated[str, Field(min_length=1)] | None = None
    #: Milliseconds that a job may run.
    timeout: FromOne | None = None


class CreateEndpointBody(UpdateEndpointBody):
    """A new endpoint."""

    name: Name
    type: Literal["QUEUE", "LOAD_BALANCER"]
    scaling: Scaling
    gpu: CreateGpuBody | None = None
