"""A specification is read from deploy.yaml and from arguments; every mistake is one line with key and line number."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path

import pytest

from vllm_service.cli.parser import parser_of
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
from vllm_service.deployment.spec_file import KEYS, flag, read_spec
from vllm_service.errors import ConfigurationError

LEAST = "model: org/Model-8B\nimage: you/worker:1\n"
WHOLE = """\
name: chat
model: org/Model-8B
revision: main
image: you/worker:1
gpu_pools: [ADA_24, AMPERE_24]
gpus_per_worker: 2
endpoint_type: queue
workers_min: 1
workers_max: 4
idle_timeout_seconds: 60
scaler: queue_delay
scaler_value: 2.5
execution_timeout_seconds: 900
flashboot: off
disk_gb: 40
min_cuda_version: "13.0"
registry_id: reg_1
container: template
network_volume: models
network_volume_gb: 50
data_center: EU-RO-1
lora_modules: {pirate: /runpod-volume/adapters/pirate}
environment: {LOG_LEVEL: DEBUG}
secrets: {HF_TOKEN: MY_HF_TOKEN}
context_length: 8192
concurrency: 16
kv_cache_dtype: fp8
quantization: awq
"""


def read(folder: Path, text: str | None, **arguments: str | Sequence[str]) -> DeploymentSpec:
    if text is None:
        return read_spec(None, arguments)
    file = folder / "deploy.yaml"
    file.write_text(text, encoding="utf-8")
    return read_spec(file, arguments)


def lines(folder: Path, text: str | None, **arguments: str | Sequence[str]) -> list[str]:
    """The lines of the error, without the folder."""
    with pytest.raises(ConfigurationError) as error:
        read(folder, text, **arguments)
    return error.value.message.replace(f"{folder}/", "").splitlines()


def test_every_key_of_the_file_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, WHOLE) == DeploymentSpec(
        name="chat",
        model="org/Model-8B",
        revision="main",
        image="you/worker:1",
        gpu_pools=("ADA_24", "AMPERE_24"),
        gpus_per_worker=2,
        endpoint_type=EndpointType.QUEUE,
        workers_min=1,
        workers_max=4,
        idle_timeout_seconds=60,
        scaler=Scaler(ScalerKind.QUEUE_DELAY, Decimal("2.5")),
        execution_timeout_seconds=900,
        flashboot=Flashboot.OFF,
        disk_gb=40,
        min_cuda_version="13.0",
        registry_id="reg_1",
        container=ContainerForm.TEMPLATE,
        volume=VolumeSpec("models", 50),
        data_center="EU-RO-1",
        lora_modules=(LoraModule("pirate", "/runpod-volume/adapters/pirate"),),
        environment=(("LOG_LEVEL", "DEBUG"),),
        secrets=(Secret("HF_TOKEN", "MY_HF_TOKEN"),),
        context_length=8192,
        concurrency=16,
        kv_cache_dtype="fp8",
        quantization="awq",
    )


def test_the_least_file_takes_the_documented_defaults(tmp_path: Path) -> None:
    spec = read(tmp_path, LEAST)
    assert (spec.name, spec.workers_min, spec.workers_max, spec.idle_timeout_seconds) == ("model-8b", 0, 3, 10)
    assert spec.takes_cheapest
    assert spec.scaler == Scaler(ScalerKind.QUEUE_DELAY, Decimal(4))


def test_arguments_alone_are_enough_and_win_over_the_file(tmp_path: Path) -> None:
    alone = read(tmp_path, None, model="org/name", image="you/worker:1")
    assert alone == DeploymentSpec("name", "org/name", "you/worker:1", idle_timeout_seconds=10, min_cuda_version="13.0")
    both = read(
        tmp_path,
        WHOLE,
        workers_max="9",
        gpu_pools="HOPPER_141",
        environment=["LOG_LEVEL=INFO", "EXTRA=a=b"],
        secrets=["WANDB_API_KEY"],
    )
    assert (both.workers_max, both.gpu_pools) == (9, ("HOPPER_141",))
    assert dict(both.environment) == {"LOG_LEVEL": "INFO", "EXTRA": "a=b"}
    assert both.secrets == (Secret("HF_TOKEN", "MY_HF_TOKEN"), Secret("WANDB_API_KEY", "WANDB_API_KEY"))


def test_a_volume_has_the_name_of_its_deployment_where_it_has_none(tmp_path: Path) -> None:
    spec = read(tmp_path, LEAST, network_volume_gb="20", data_center="EU-RO-1", min_cuda_version="any")
    assert spec.volume == VolumeSpec("model-8b", 20)
    assert spec.min_cuda_version is None


def test_cheapest_wins_over_the_pools_of_the_file(tmp_path: Path) -> None:
    assert read(tmp_path, WHOLE, gpu_pools="cheapest").takes_cheapest


def test_an_argument_replaces_a_wrong_value_of_the_file(tmp_path: Path) -> None:
    assert read(tmp_path, f"{LEAST}workers_max: many\n", workers_max="2").workers_max == 2


def test_all_mistakes_are_reported_at_once_with_key_and_line(tmp_path: Path) -> None:
    text = (
        "modl: x\nimage: you/worker 1\ngpus_per_worker: 0\nworkers_min: 5\nworkers_max: 2\n"
        "scaler: delay\nnetwork_volume: v\nnetwork_volume_gb: 5\nsecrets: {HF_TOKEN: hf_abc}\n"
    )
    found = lines(tmp_path, text, flashboot="on")
    for line in (
        "deploy.yaml:1: modl: unknown key (did you mean model?)",
        "deployment: model: it is missing; add the model to serve",
        "deploy.yaml:2: image: an image's name has no spaces",
        "deploy.yaml:3: gpus_per_worker: expected a whole number from 1 to 64, got 0",
        "deploy.yaml:4: workers_min: 5 is more than workers_max, 2; lower it",
        "deploy.yaml:6: scaler: 'delay' is not known",
        "deployment: data_center: a network volume lies in one data centre",
        "deploy.yaml:8: network_volume_gb: expected a whole number from 10 to 4096, got 5",
        "deploy.yaml:9: secrets.HF_TOKEN: expected the name of a variable",
        "command line: --flashboot: 'on' is not known",
    ):
        assert any(each.startswith(line) for each in found), (line, found)
    assert len(found) == 10


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("workers_max: 1e9", "deploy.yaml:3: workers_max: expected a whole number, got '1e9'"),
        ("workers_max: .nan", "deploy.yaml:3: workers_max: expected a whole number, got '.nan'"),
        ("workers_max: -1", "deploy.yaml:3: workers_max: expected a whole number, got '-1'"),
        (f"workers_max: {'9' * 5000}", "deploy.yaml:3: workers_max: expected a whole number, got '999"),
        ("workers_max: [1]", "deploy.yaml:3: workers_max: expected text"),
        ("workers_max: 0", "deploy.yaml:3: workers_max: expected a whole number from 1 to 1000, got 0"),
        ("scaler_value: 1e999999", "deploy.yaml:3: scaler_value: expected a number of at most 1000000"),
        ("scaler_value: nan", "deploy.yaml:3: scaler_value: expected a number of at least 0, got NaN"),
        ("scaler_value: 0.1", "deploy.yaml:3: scaler_value: expected at least 0.5 s, got 0.1"),
        ("idle_timeout_seconds: 3601", "deploy.yaml:3: idle_timeout_seconds: expected a whole number from 1 to 3600"),
        ("execution_timeout_seconds: 4", "deploy.yaml:3: execution_timeout_seconds: expected a whole number from 5"),
        ("gpu_pools: ADA_24", "deploy.yaml:3: gpu_pools: expected a list of RunPod's pools"),
        ("gpu_pools: [A, A]", "deploy.yaml:3: gpu_pools: A is here twice"),
        ("min_cuda_version: 13", "deploy.yaml:3: min_cuda_version: expected a version such as 13.0, got '13'"),
        ("network_volume_gb: 20", "deployment: data_center: a network volume lies in one data centre"),
        ("environment: [A]", "deploy.yaml:3: environment: expected keys and values"),
        ("environment: {1A: x}", "deploy.yaml:3: environment.1A: expected a variable's name"),
        ("environment: {A: [b]}", "deploy.yaml:3: environment.A: expected text"),
        ("environment: {MODEL_NAME: x}", "deploy.yaml:3: environment.MODEL_NAME: this variable follows from model"),
        ("environment: {HF_TOKEN: hf_x}", "deploy.yaml:3: environment.HF_TOKEN: a secret must not stand in a file"),
        *(
            (
                f"environment: {{GPU_MEMORY_UTILIZATION: '{share}'}}",
                "deploy.yaml:3: environment.GPU_MEMORY_UTILIZATION:",
            )
            for share in ("0", "1.1", "90", "nan", "1e-3", "0." + "1" * 5000)
        ),
        ("lora_modules: {a b: /x}", "deploy.yaml:3: lora_modules: 'a b' is no name"),
        ("name: [a]", "deploy.yaml:3: name: expected text"),
        ("model: org/b", "deploy.yaml:3: model: the key is here twice; remove one"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, text: str, expected: str) -> None:
    (line,) = lines(tmp_path, f"{LEAST}{text}\n")
    assert line.startswith(expected)
    assert "hf_" not in line


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"endpoint_type": "load_balancer", "scaler": "queue_delay"}, "--scaler: a load-balancing endpoint has no"),
        ({"scaler": "request_count", "idle_timeout_seconds": "5"}, "--idle-timeout-seconds: RunPod has no idle"),
        ({"scaler": "request_count", "scaler_value": "1.5"}, "--scaler-value: expected a whole number of requests"),
        ({"environment": ["A"]}, "--environment: expected NAME=VALUE"),
        ({"environment": ["A=1", "A=2"]}, "--environment.A: the key is here twice"),
        ({"environment": ["A=1"], "secrets": ["A"]}, "--secrets.A: the variable is in environment too"),
        ({"secrets": ["HF_TOKEN=hf_secret"]}, "--secrets.HF_TOKEN: expected the name of a variable"),
        ({"image": " "}, "--image: expected text"),
    ],
)
def test_a_mistake_in_an_argument_names_the_argument(
    tmp_path: Path, arguments: Mapping[str, str | Sequence[str]], expected: str
) -> None:
    (line,) = lines(tmp_path, LEAST, **arguments)
    assert line.startswith(f"command line: {expected}")
    assert "hf_secret" not in line


def test_scaling_by_requests_has_an_idle_timeout_only_without_a_queue(tmp_path: Path) -> None:
    assert read(tmp_path, LEAST, scaler="request_count").idle_timeout_seconds is None
    balanced = read(tmp_path, LEAST, endpoint_type="load_balancer")
    assert (balanced.scaler.kind, balanced.idle_timeout_seconds) == (ScalerKind.REQUEST_COUNT, 10)


@pytest.mark.parametrize("text", ["", "- a\n", "model: [", "model: \x00", "[" * 20_000], ids=range(5))
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    assert lines(tmp_path, text)[0].startswith("deploy.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"deploy\.yaml: No such file or directory\. Name another with --file"):
        read_spec(tmp_path / "deploy.yaml", {})


def test_a_specification_in_code_is_validated_too() -> None:
    with pytest.raises(SpecFaults) as error:
        DeploymentSpec("", "org/name", "image", workers_max=0)
    assert [fault.key for fault in error.value.faults] == ["name", "workers_max"]


def test_values_of_variables_are_not_in_the_representation() -> None:
    spec = DeploymentSpec("a", "b/c", "image", environment=(("GREETING", "hello-there"),))
    assert "hello-there" not in repr(spec)


CHOSEN = {"endpoint_type": "queue", "scaler": "queue_delay", "flashboot": "off", "container": "inline"}
PAGE = (Path(__file__).resolve().parents[3] / "docs" / "deploy.md").read_text(encoding="utf-8")


def test_the_documented_example_is_valid(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(# deploy\.yaml\n.*?)```", PAGE, flags=re.DOTALL)
    spec = read(tmp_path, example)
    assert (spec.name, spec.takes_cheapest, spec.volume) == ("qwen3-8b", True, VolumeSpec("qwen3-8b", 50))


def test_every_key_is_documented_and_is_an_argument() -> None:
    table = PAGE[PAGE.index("| key | default |") :].partition("\n\n")[0]
    first = [line.split("|")[1] for line in table.splitlines()[2:]]
    assert sorted(key for cell in first for key in re.findall(r"`(\w+)`", cell)) == sorted(KEYS)
    given = [word for key in KEYS for word in (flag(key), CHOSEN.get(key, "1"))]
    options = parser_of(["deploy"]).parse_args(["deploy", "plan", *given])
    assert all(getattr(options, key) for key in KEYS)
