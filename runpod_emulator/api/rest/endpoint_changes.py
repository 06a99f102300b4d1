"""From a request's body to an endpoint's configuration and settings, with the rules between fields."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from runpod_emulator.account.account import Account
from runpod_emulator.account.configuration import ContainerConfig, EndpointConfig, GpuSelection
from runpod_emulator.account.template import Template
from runpod_emulator.api.rest.endpoint_bodies import (
    ContainerBody,
    CreateEndpointBody,
    GpuBody,
    QueueDelayBody,
    UpdateEndpointBody,
    WorkersBody,
)
from runpod_emulator.errors import BadRequest, NotEmulated, Unprocessable
from runpod_emulator.settings import EndpointSettings

Settings = dict[str, Any]

#: What a new endpoint gets for fields that are left out, as RunPod's schema has it.
NEW: Settings = {"min_workers": 0, "max_workers": 3, "idle_timeout_seconds": 10, "execution_timeout_seconds": 300}


def created(body: CreateEndpointBody, account: Account) -> tuple[EndpointConfig, Settings]:
    """Returns the configuration and the settings of a new endpoint. Raises ApiError."""
    if body.cpu is not None and body.gpu is None:
        raise NotEmulated("cpu: endpoints without GPUs are not emulated; give gpu")
    if body.gpu is None or body.cpu is not None:
        raise BadRequest("exactly one of gpu and cpu has to be given")
    template = _template(body, account)
    if template is None and body.image is None:
        raise Unprocessable("Request validation failed.", ["$.image: required unless templateId is given"])
    container = changed_container(template.container if template else ContainerConfig(image=""), body)
    if template and "env" in body.model_fields_set:
        container = replace(container, env={**template.container.env, **container.env})
    gpu = _gpu(GpuSelection(pools=()), body.gpu)
    if template and body.gpu.allowed_cuda_versions is None and body.gpu.min_cuda_version is None:
        gpu = replace(gpu, allowed_cuda_versions=template.allowed_cuda_versions)
    config = EndpointConfig(name=body.name, container=container, gpu=gpu, template_id=body.template_id)
    kind: Settings = {"type": "queue", "scaling": "queue_delay"}
    if body.type == "LOAD_BALANCER":
        kind = {"type": "load_balancer", "scaling": "request_count"}
    return _with_places(config, body), NEW | kind | _settings(body, replace(account.settings, **kind))


def changed(
    body: UpdateEndpointBody, config: EndpointConfig, settings: EndpointSettings, account: Account
) -> tuple[EndpointConfig, Settings]:
    """Returns the configuration with the fields of the body, and the settings to change. Raises ApiError."""
    if body.cpu is not None:
        raise BadRequest("cpu: this endpoint has GPUs, and that cannot be changed")
    container = config.container
    if template := _template(body, account):
        container = replace(container, **_container_fields(template.container))
    container = changed_container(container, body)
    if template and "env" in body.model_fields_set:
        container = replace(container, env={**template.container.env, **container.env})
    gpu = config.gpu if body.gpu is None else _gpu(config.gpu, body.gpu)
    config = replace(config, name=body.name or config.name, container=container, gpu=gpu)
    return _with_places(config, body), _settings(body, settings)


def changed_container(container: ContainerConfig, body: ContainerBody) -> ContainerConfig:
    """Returns the container with the fields of the body. `env` replaces all variables."""
    fields = body.values("image", "args", "env", "registry")
    if body.disk is not None:
        fields["disk_gb"] = body.disk
    if body.ports is not None:
        fields["ports"] = tuple(body.ports)
    return replace(container, **fields)


def _template(body: UpdateEndpointBody, account: Account) -> Template | None:
    return None if body.template_id is None else account.template(body.template_id)


def _container_fields(container: ContainerConfig) -> dict[str, Any]:
    return {name: getattr(container, name) for name in ("image", "args", "disk_gb", "ports", "env", "registry")}


def _gpu(gpu: GpuSelection, body: GpuBody) -> GpuSelection:
    if body.excluded_types is not None and body.pools is None:
        raise Unprocessable("Request validation failed.", ["$.gpu.excludedTypes: needs gpu.pools beside it"])
    if body.pools is not None:  # both are one selection: pools alone take the exclusions away
        gpu = replace(gpu, pools=tuple(dict.fromkeys(body.pools)), excluded_types=tuple(body.excluded_types or ()))
    if body.count is not None:
        gpu = replace(gpu, count=body.count)
    if body.allowed_cuda_versions is not None:
        gpu = replace(gpu, allowed_cuda_versions=tuple(body.allowed_cuda_versions))
    if body.min_cuda_version is not None:
        gpu = replace(gpu, min_cuda_version=body.min_cuda_version or None)
    if gpu.allowed_cuda_versions and gpu.min_cuda_version:
        raise BadRequest("gpu: allowedCudaVersions and minCudaVersion exclude one another")
    return gpu


def _with_places(config: EndpointConfig, body: UpdateEndpointBody) -> EndpointConfig:
    fields = body.values("flashboot")
    for name, ids in body.values("data_center_ids", "network_volumes").items():
        fields[name] = tuple(ids)
    return replace(config, **fields)


def _settings(body: UpdateEndpointBody, former: EndpointSettings) -> Settings:
    """Returns the settings that the body changes, under the names of EndpointSettings."""
    changes: Settings = {}
    if isinstance(body.scaling, QueueDelayBody):
        if former.is_balanced:
            raise BadRequest("scaling: a load balancer has no queue; expected the type REQUEST_COUNT")
        changes |= {"scaling": "queue_delay", "queue_delay_seconds": body.scaling.queue_delay}
    elif body.scaling is not None:
        changes |= {"scaling": "request_count", "requests_per_worker": body.scaling.request_count}
    counts_jobs = changes.get("scaling", former.scaling) == "request_count" and not former.is_balanced
    changes |= _workers(body.workers or WorkersBody(), counts_jobs)
    if body.timeout is not None:
        seconds = body.timeout / 1000
        shortest, longest = former.shortest_execution_timeout_seconds, former.longest_execution_timeout_seconds
        if not shortest <= seconds <= longest:
            raise BadRequest(f"timeout: expected {shortest * 1000:g} to {longest * 1000:g} ms")
        changes["execution_timeout_seconds"] = seconds
    return changes


def _workers(body: WorkersBody, counts_jobs: bool) -> Settings:
    if body.idle_timeout is not None and counts_jobs:
        raise BadRequest("workers.idleTimeout: does not apply to a queue endpoint that scales on its request count")
    fields = {"min_workers": body.min, "max_workers": body.max, "idle_timeout_seconds": body.idle_timeout}
    return {name: value for name, value in fields.items() if value is not None}
