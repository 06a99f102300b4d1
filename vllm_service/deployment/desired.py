"""What RunPod has to have for a specification: the worker's variables, and the bodies of REST v2's requests."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from vllm_service.deployment.spec import DeploymentSpec, EndpointType, Scaler, ScalerKind, Secret
from vllm_service.errors import ConfigurationError, ConfigurationFaults

#: The variable that marks what `deploy` has made, with the deployment's name.
TAG = "DEPLOYMENT_NAME"
#: RunPod's default port of a load-balancing endpoint's worker (REST v2's schema of 2026-08).
DEFAULT_PORT = "80"


def secret_values(secrets: Sequence[Secret], environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the values of the worker's secret variables. Raises ConfigurationError naming each that is not set here.

    environment: this machine's variables.
    """
    faults = ConfigurationFaults()
    values: dict[str, str] = {}
    for secret in secrets:
        value = environment.get(secret.local_variable, "")
        if not value.strip():
            faults.add(
                ConfigurationError(
                    f"secrets.{secret.variable}: the variable {secret.local_variable} is not set on this machine; "
                    "set it, or remove the secret",
                    param=f"secrets.{secret.variable}",
                )
            )
        values[secret.variable] = value
    faults.raise_all()
    return values


def container_environment(spec: DeploymentSpec, secrets: Mapping[str, str]) -> dict[str, str]:
    """Returns every variable of the worker, by name: those of the specification, its secrets, and the derived ones."""
    derived = {
        TAG: spec.name,
        "MODEL_NAME": spec.model,
        "MODEL_REVISION": spec.revision,
        "TENSOR_PARALLEL_SIZE": str(spec.gpus_per_worker) if spec.gpus_per_worker > 1 else None,
        "MAX_MODEL_LEN": None if spec.context_length is None else str(spec.context_length),
        "KV_CACHE_DTYPE": None if spec.kv_cache_dtype == "auto" else spec.kv_cache_dtype,
        "QUANTIZATION": spec.quantization,
        "ENABLE_LORA": "true" if spec.lora_modules else None,
        "LORA_MODULES": shlex.join(f"{module.name}={module.path}" for module in spec.lora_modules) or None,
    }
    ports = {}
    if spec.endpoint_type is EndpointType.LOAD_BALANCER:
        ports = {"PORT": DEFAULT_PORT, "PORT_HEALTH": DEFAULT_PORT}
    given = dict(spec.environment)
    return {**ports, **given, **secrets, **{name: value for name, value in derived.items() if value is not None}}


def endpoint_body(
    spec: DeploymentSpec,
    pools: Sequence[str],
    environment: Mapping[str, str],
    *,
    volume_id: str | None = None,
    template_id: str | None = None,
) -> dict[str, Any]:
    """Returns the body of `POST /v2/serverless`. Fields that the specification leaves to RunPod are left out.

    pools: in the order of preference, at least one. environment: of `container_environment`. template_id: the template
    that has image, disk, registry and variables; None puts them into the endpoint.
    """
    workers = {"min": spec.workers_min, "max": spec.workers_max, "idleTimeout": spec.idle_timeout_seconds}
    container = {"templateId": template_id} if template_id is not None else _container(spec, environment)
    optional = {"dataCenterIds": None if spec.data_center is None else [spec.data_center]}
    return {
        "name": spec.name,
        "type": spec.endpoint_type.value,
        **container,
        "gpu": _set({"pools": [*pools], "count": spec.gpus_per_worker, "minCudaVersion": spec.min_cuda_version}),
        "workers": _set(workers),
        "scaling": _scaling(spec.scaler),
        **_set(optional),
        "networkVolumes": [] if volume_id is None else [volume_id],
        "flashboot": spec.flashboot.value,
        "timeout": spec.execution_timeout_seconds * 1000,
    }


def template_body(spec: DeploymentSpec, environment: Mapping[str, str]) -> dict[str, Any]:
    """Returns the body of `POST /v2/templates` for a serverless template of the deployment's name."""
    return {
        "name": spec.name,
        **_container(spec, environment),
        "serverless": True,
        "public": False,
        "startJupyter": False,
        "startSsh": False,
    }


def volume_body(spec: DeploymentSpec) -> dict[str, Any]:
    """Returns the body of `POST /v2/network-volumes`. The specification must have a volume and its data centre."""
    assert spec.volume is not None
    assert spec.data_center is not None
    return {"name": spec.volume.name, "size": spec.volume.size_gb, "dataCenter": spec.data_center}


def _container(spec: DeploymentSpec, environment: Mapping[str, str]) -> dict[str, Any]:
    optional = _set({"disk": spec.disk_gb, "registry": spec.registry_id})
    return {"image": spec.image, "env": dict(environment), **optional}


def _scaling(scaler: Scaler) -> dict[str, Any]:
    if scaler.kind is ScalerKind.REQUEST_COUNT:
        return {"type": scaler.kind.value, "requestCount": int(scaler.value)}
    return {"type": scaler.kind.value, "queueDelay": _json_number(scaler.value)}


def _json_number(value: Decimal) -> int | float:
    return int(value) if value == value.to_integral_value() else float(value)


def _set(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
