"""The bodies of REST v2's requests, and the worker's variables, of a specification."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from tests.contract.rest_contract import check_request
from vllm_service.deployment.desired import (
    container_environment,
    endpoint_body,
    secret_values,
    template_body,
    volume_body,
)
from vllm_service.deployment.spec import (
    DeploymentSpec,
    EndpointType,
    LoraModule,
    Scaler,
    ScalerKind,
    Secret,
    VolumeSpec,
)
from vllm_service.errors import ConfigurationError

SPEC = DeploymentSpec("chat", "org/name", "you/worker:1", idle_timeout_seconds=10)
BY_COUNT = Scaler(ScalerKind.REQUEST_COUNT, Decimal(8))


def test_the_least_endpoint_leaves_out_what_is_runpods_choice() -> None:
    assert endpoint_body(SPEC, ["ADA_24"], {"A": "b"}) == {
        "name": "chat",
        "type": "QUEUE",
        "image": "you/worker:1",
        "env": {"A": "b"},
        "gpu": {"pools": ["ADA_24"], "count": 1},
        "workers": {"min": 0, "max": 3, "idleTimeout": 10},
        "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4},
        "networkVolumes": [],
        "flashboot": "FLASHBOOT",
        "timeout": 600_000,
    }


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"disk_gb": 40}, {"disk": 40}),
        ({"registry_id": "reg"}, {"registry": "reg"}),
        ({"data_center": "EU-RO-1"}, {"dataCenterIds": ["EU-RO-1"]}),
        (
            {"gpus_per_worker": 2, "min_cuda_version": "13.0"},
            {"gpu": {"pools": ["ADA_24"], "count": 2, "minCudaVersion": "13.0"}},
        ),
        (
            {"scaler": Scaler(ScalerKind.QUEUE_DELAY, Decimal("2.5"))},
            {"scaling": {"type": "QUEUE_DELAY", "queueDelay": 2.5}},
        ),
        (
            {"scaler": BY_COUNT, "idle_timeout_seconds": None},
            {"scaling": {"type": "REQUEST_COUNT", "requestCount": 8}, "workers": {"min": 0, "max": 3}},
        ),
        (
            {"scaler": BY_COUNT, "endpoint_type": EndpointType.LOAD_BALANCER},
            {"type": "LOAD_BALANCER", "workers": {"min": 0, "max": 3, "idleTimeout": 10}},
        ),
    ],
)
def test_a_field_of_the_specification_reaches_the_body(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    body = endpoint_body(replace(SPEC, **changes), ["ADA_24"], {})
    assert {name: body[name] for name in expected} == expected


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"disk_gb": 40, "registry_id": "reg", "min_cuda_version": "13.0", "gpus_per_worker": 2},
        {"scaler": BY_COUNT, "idle_timeout_seconds": None},
        {"scaler": BY_COUNT, "endpoint_type": EndpointType.LOAD_BALANCER},
        {"volume": VolumeSpec("models", 50), "data_center": "EU-RO-1"},
    ],
)
def test_bodies_are_as_runpod_publishes_them(changes: dict[str, Any]) -> None:
    spec = replace(SPEC, **changes)
    environment = container_environment(spec, {"HF_TOKEN": "hf_x"})
    bodies = [
        ("/v2/serverless", endpoint_body(spec, ["ADA_24", "AMPERE_24"], environment, volume_id="vol_1")),
        ("/v2/serverless", endpoint_body(spec, ["ADA_24"], environment, template_id="tpl_1")),
        ("/v2/templates", template_body(spec, environment)),
    ]
    if spec.volume is not None:
        bodies.append(("/v2/network-volumes", volume_body(spec)))
    for path, body in bodies:
        check_request("POST", path, "", json.dumps(body).encode())


def test_a_template_has_the_container_and_the_endpoint_its_id() -> None:
    body = endpoint_body(SPEC, ["ADA_24"], {"A": "b"}, template_id="tpl_1", volume_id="vol_1")
    assert (body["templateId"], body["networkVolumes"]) == ("tpl_1", ["vol_1"])
    assert not {"image", "env", "disk"} & set(body)
    template = template_body(replace(SPEC, disk_gb=40), {"A": "b"})
    assert template == {
        "name": "chat",
        "image": "you/worker:1",
        "env": {"A": "b"},
        "disk": 40,
        "serverless": True,
        "public": False,
        "startJupyter": False,
        "startSsh": False,
    }


def test_a_volume_has_name_size_and_data_center() -> None:
    spec = replace(SPEC, volume=VolumeSpec("models", 50), data_center="EU-RO-1")
    assert volume_body(spec) == {"name": "models", "size": 50, "dataCenter": "EU-RO-1"}


def test_variables_follow_from_the_specification() -> None:
    spec = replace(
        SPEC,
        revision="v1",
        gpus_per_worker=2,
        context_length=4096,
        kv_cache_dtype="fp8",
        quantization="awq",
        lora_modules=(LoraModule("pirate", "/a b/pirate"), LoraModule("poet", "org/poet")),
        environment=(("LOG_LEVEL", "DEBUG"),),
    )
    assert container_environment(spec, {"HF_TOKEN": "hf_x"}) == {
        "LOG_LEVEL": "DEBUG",
        "HF_TOKEN": "hf_x",
        "DEPLOYMENT_NAME": "chat",
        "MODEL_NAME": "org/name",
        "MODEL_REVISION": "v1",
        "TENSOR_PARALLEL_SIZE": "2",
        "MAX_MODEL_LEN": "4096",
        "KV_CACHE_DTYPE": "fp8",
        "QUANTIZATION": "awq",
        "ENABLE_LORA": "true",
        "LORA_MODULES": "'pirate=/a b/pirate' poet=org/poet",
    }
    assert container_environment(SPEC, {}) == {"DEPLOYMENT_NAME": "chat", "MODEL_NAME": "org/name"}


def test_a_load_balanced_worker_serves_on_a_port_which_can_be_another() -> None:
    spec = replace(SPEC, endpoint_type=EndpointType.LOAD_BALANCER, scaler=BY_COUNT, environment=(("PORT", "8000"),))
    variables = container_environment(spec, {})
    assert (variables["PORT"], variables["PORT_HEALTH"]) == ("8000", "80")


def test_secrets_are_taken_from_this_machine_and_all_that_are_missing_are_named() -> None:
    secrets = (Secret("HF_TOKEN", "MY_TOKEN"), Secret("A_KEY", "A_KEY"))
    assert secret_values(secrets, {"MY_TOKEN": "hf_x", "A_KEY": "k"}) == {"HF_TOKEN": "hf_x", "A_KEY": "k"}
    with pytest.raises(ConfigurationError) as error:
        secret_values(secrets, {"A_KEY": " "})
    assert [line.partition(":")[0] for line in error.value.message.splitlines()] == [
        "secrets.HF_TOKEN",
        "secrets.A_KEY",
    ]
