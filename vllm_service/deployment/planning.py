"""Makes the plan of a deployment: asks the hub, RunPod's catalogue and what RunPod has, where they can be asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vllm_service.deployment.desired import container_environment, endpoint_body, template_body
from vllm_service.deployment.difference import Difference, differences
from vllm_service.deployment.existing import Existing, Names, find_existing, id_of
from vllm_service.deployment.hub import Hub
from vllm_service.deployment.model_files import ModelFiles, of_directory
from vllm_service.deployment.plan import Plan, choose_pools, lines_of, volume_usd
from vllm_service.deployment.pools import Catalogue, read_catalogue, shipped
from vllm_service.deployment.sizes import ModelSizes, sizes_of
from vllm_service.deployment.spec import ContainerForm, DeploymentSpec
from vllm_service.deployment.unknown import Unknown
from vllm_service.errors import ServiceError
from vllm_service.runpod.rest_api import RestApi
from vllm_service.storage.ledger.cold_starts import ColdStart


def files_of(spec: DeploymentSpec, hub: Hub) -> ModelFiles | Unknown:
    """Returns what is known of the model's files: of a directory on this machine, else of the hub's repository.

    Raises ConfigurationError as Hub.files does.
    """
    directory = Path(spec.model)
    if directory.is_dir():
        return of_directory(directory)
    if directory.is_absolute():
        return Unknown(f"{spec.model} is no directory of this machine, so its files cannot be read here")
    return hub.files(spec.model, spec.revision)


async def catalogue_of(spec: DeploymentSpec, api: RestApi | None) -> Catalogue:
    """Returns RunPod's pools, or the shipped table where RunPod cannot be asked. Raises RestError."""
    if api is None:
        return shipped()
    return await read_catalogue(
        api, gpus=spec.gpus_per_worker, min_cuda_version=spec.min_cuda_version, data_center=spec.data_center
    )


async def pools_of(spec: DeploymentSpec, api: RestApi, hub: Hub) -> tuple[str, ...]:
    """Returns the pools of the endpoint, as the plan chooses them. Raises ServiceError.

    The hub and the catalogue are asked only where the specification names no pools.
    """
    if not spec.takes_cheapest:
        return spec.gpu_pools
    files = await asyncio.to_thread(files_of, spec, hub)
    return choose_pools(spec, sizes_of(spec, files), await catalogue_of(spec, api))


#: Returns the cold starts that were measured at the endpoint of this id. May raise ServiceError.
Measured = Callable[[str], Awaitable[Sequence[ColdStart]]]


async def make_plan(
    spec: DeploymentSpec,
    files: ModelFiles | Unknown,
    api: RestApi | None,
    local_environment: Mapping[str, str],
    measured: Measured | None = None,
) -> Plan:
    """Returns the plan. Raises ServiceError.

    api: None where there is no key: then prices are the shipped table's, and nothing is compared. local_environment:
    this machine's variables, for the values of secrets. measured: None where there is no ledger to ask.
    """
    sizes = sizes_of(spec, files)
    catalogue = await catalogue_of(spec, api)
    pools = choose_pools(spec, sizes, catalogue)
    existing = None if api is None else await find_existing(api, _names(spec))
    endpoint = None if existing is None else existing.endpoint
    notes = _notes(spec, sizes, catalogue, pools, local_environment)
    starts: Sequence[ColdStart] = ()
    if measured is not None and endpoint is not None:
        try:
            starts = await measured(id_of(endpoint))
        except ServiceError as error:
            notes.append(f"no cold start is known, because the ledger cannot be read: {error.message}")
    return Plan(
        spec=spec,
        sizes=sizes,
        lines=lines_of(spec, sizes, catalogue, pools, starts),
        pools=pools,
        prices_from=catalogue.source,
        volume_usd_per_month=volume_usd(spec),
        differences=None if existing is None else _differences(spec, pools, existing, local_environment),
        endpoint_id=None if endpoint is None else id_of(endpoint),
        notes=tuple(notes),
    )


def _names(spec: DeploymentSpec) -> Names:
    return Names(spec.name, None if spec.volume is None else spec.volume.name, spec.data_center)


def _differences(
    spec: DeploymentSpec, pools: tuple[str, ...], existing: Existing, local_environment: Mapping[str, str]
) -> tuple[Difference, ...]:
    # A secret that is not set here cannot be compared, so it counts as it is there.
    known = _variables(existing.endpoint)
    secrets = {
        secret.variable: local_environment.get(secret.local_variable) or str(known.get(secret.variable, ""))
        for secret in spec.secrets
    }
    environment = container_environment(spec, secrets)
    endpoint = endpoint_body(spec, pools, environment, volume_id=_volume_id(spec, existing))
    found = [*_volume_difference(spec, existing)]
    if spec.container is ContainerForm.TEMPLATE:
        template = differences(template_body(spec, environment), existing.template)
        found += [replace(difference, field=f"template.{difference.field}") for difference in template]
    # RunPod copies a template into the endpoint when that is made, so the endpoint's own fields are compared too.
    return (*found, *differences(endpoint, existing.endpoint))


def _variables(document: Mapping[str, Any] | None) -> Mapping[str, Any]:
    found = None if document is None else document.get("env")
    return found if isinstance(found, Mapping) else {}


def _volume_id(spec: DeploymentSpec, existing: Existing) -> str | None:
    if spec.volume is None:
        return None
    return f"(new: {spec.volume.name})" if existing.volume is None else id_of(existing.volume)


def _volume_difference(spec: DeploymentSpec, existing: Existing) -> tuple[Difference, ...]:
    """Returns the difference of the volume's size. RunPod can make a volume larger, and never smaller."""
    if spec.volume is None:
        return ()
    size_gb = None if existing.volume is None else existing.volume.get("size")
    if size_gb == spec.volume.size_gb:
        return ()
    is_smaller = isinstance(size_gb, int) and size_gb > spec.volume.size_gb
    return (Difference("networkVolume.size", size_gb, spec.volume.size_gb, cannot_change=is_smaller),)


def _notes(
    spec: DeploymentSpec,
    sizes: ModelSizes,
    catalogue: Catalogue,
    pools: tuple[str, ...],
    local_environment: Mapping[str, str],
) -> list[str]:
    notes = [*sizes.notes]
    if sizes.source == spec.model:
        notes.append("the model's files were read on this machine; the worker needs them in the same directory")
    notes += [
        f"the pool {pool} is not in {catalogue.source}, so its memory and price are not known"
        for pool in pools
        if catalogue.pool(pool) is None
    ]
    notes += [
        f"{line.pool.id} does not hold the model"
        for line in lines_of(spec, sizes, catalogue, pools)
        if line.is_chosen and line.holds is False
    ]
    notes += [
        f"the variable {secret.local_variable} is not set on this machine; apply needs it for {secret.variable}"
        for secret in spec.secrets
        if not local_environment.get(secret.local_variable, "").strip()
    ]
    return notes
