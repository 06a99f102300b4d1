"""`deploy plan` as its users run it: without a key, against what RunPod has, as JSON, with its exit codes."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.contract.rest_contract import check_request
from tests.e2e import process
from tests.vllm_service.runpod.scripted import Scripted, problem, says, scripted
from vllm_service.cli import deploy_plan
from vllm_service.cli.exit_codes import DIFFERS
from vllm_service.cli.parser import parse
from vllm_service.errors import ConfigurationError, ServiceError

DEMO = str(Path(__file__).resolve().parents[3] / "demo_model")
LEAST = ("--model", DEMO, "--image", "you/worker:1", "--name", "demo")
KEY = "rpa_secret"
GPUS = {
    "gpus": [
        {
            "id": "NVIDIA GeForce RTX 4090",
            "name": "RTX 4090\x1b[2J",
            "pool": "ADA_24",
            "manufacturer": "NVIDIA",
            "memory": 24,
            "price": {"secure": 0.4, "community": 0.3, "serverless": 1.1},
            "availability": "LOW",
        }
    ]
}
ENDPOINT: dict[str, Any] = {
    "id": "ep1",
    "name": "demo",
    "type": "QUEUE",
    "image": "you/worker:1",
    "env": {"DEPLOYMENT_NAME": "demo", "MODEL_NAME": DEMO, "HF_TOKEN": "hf_there"},
    "gpu": {"pools": ["ADA_24"], "count": 1, "allowedCudaVersions": [], "minCudaVersion": "13.0"},
    "workers": {"min": 0, "max": 3, "idleTimeout": 10},
    "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4},
    "dataCenterIds": [],
    "networkVolumes": [],
    "timeout": 600000,
    "flashboot": "FLASHBOOT",
    "createdAt": "2026-11-29T10:00:00Z",
}


def plan(*arguments: str, environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Runs the action; returns its exit code and what it prints for people."""
    options = parse(["deploy", "plan", *LEAST, *arguments])
    text = io.StringIO()
    return deploy_plan.run(options, environment or {}, Console(file=text, width=200)), text.getvalue()


def as_json(*arguments: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert plan("--json", *arguments)[0] == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


async def against(script: Scripted, *arguments: str, answers: list[bytes], **more: str) -> tuple[int, str]:
    """The same against RunPod's answers: the catalogue, volumes where there is one, templates, endpoints."""
    script.answers = answers
    environment = {"RUNPOD_API_KEY": KEY, "RUNPOD_REST_URL": script.origin, **more}
    return await asyncio.to_thread(plan, *arguments, environment=environment)


def test_without_a_key_the_shipped_table_counts_and_nothing_is_compared() -> None:
    code, text = plan()
    assert code == 0
    assert "Prices from the shipped table of 2026-" in text
    assert "Nothing was compared with RunPod: RUNPOD_API_KEY is not set" in text
    assert "1 conversation of 2,048 tokens (3,072 bytes a token)" in text
    assert "│ * │ AMPERE_16 " in text


def test_json_has_exact_amounts_and_what_is_unknown_as_null(capsys: pytest.CaptureFixture[str]) -> None:
    document = as_json("--network-volume-gb", "50", "--data-center", "EU-RO-1", capsys=capsys)
    assert document["chosen_pools"] == ["AMPERE_16"]
    assert document["volume"] == {"name": "demo", "size_gb": 50, "usd_per_month": "3.5"}
    assert document["is_compared"] is False
    first = document["pools"][0]
    assert (first["usd_per_second"], first["holds"], first["is_chosen"]) == ("0.00016", True, True)
    assert first["usd_per_month"] == {"0": "3.5", "1": "20.78", "24": "418.22"}
    assert first["cold_start_seconds"] is None
    assert document["sizes"]["kv_cache_bytes_per_token"] == 3072
    assert document["sizes"]["unknown"] == []
    parts = document["sizes"]["bytes_per_gpu"]
    assert parts["total"] == parts["weights"] + parts["kv_cache"] + parts["rest"]


def test_what_is_not_known_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "new"}')
    named = ("--model", str(tmp_path), "--gpu-pools", "ADA_24,NEW_1")
    code, text = plan(*named)
    assert code == 0
    assert "What the model needs is unknown: it has no weights in .safetensors or .bin files." in text
    assert "note: the pool NEW_1 is not in the shipped table" in text
    document = as_json(*named, capsys=capsys)
    assert document["pools"][0]["holds"] is None
    assert document["sizes"]["bytes_per_gpu"] is None
    assert len(document["sizes"]["unknown"]) >= 1


def test_the_cheapest_of_an_unknown_need_is_refused() -> None:
    with pytest.raises(
        ConfigurationError, match=r"gpu_pools: the cheapest cannot be chosen.*/models/x is no directory"
    ):
        plan("--model", "/models/x")


def test_a_specification_with_mistakes_is_refused_with_all_of_them() -> None:
    with pytest.raises(ConfigurationError) as error:
        plan("--workers-max", "0", "--gpus-per-worker", "0")
    assert error.value.message.splitlines() == [
        "command line: --gpus-per-worker: expected a whole number from 1 to 64, got 0",
        "command line: --workers-max: expected a whole number from 1 to 1000, got 0",
    ]


def test_check_needs_something_to_compare_with() -> None:
    for arguments in (("--check",), ("--check", "--offline")):
        with pytest.raises(ConfigurationError, match="--check compares with RunPod: set RUNPOD_API_KEY"):
            plan(*arguments)


async def test_a_deployment_that_is_not_there_is_all_difference() -> None:
    async with scripted() as script:
        answers = [says(GPUS), says({"templates": []}), says({"endpoints": []})]
        code, text = await against(script, "--check", answers=answers)
    assert code == DIFFERS
    assert "RunPod has no endpoint demo; apply makes it." in text
    assert "workers.max" in text
    assert "Prices from RunPod's catalogue" in text
    assert "\x1b" not in text
    assert KEY not in text
    for method, target, headers, body in script.asked:
        path, _, query = target.partition("?")
        check_request(method, path, query, body)
        assert headers["authorization"] == f"Bearer {KEY}"


async def test_what_is_as_specified_has_no_difference() -> None:
    async with scripted() as script:
        answers = [says(GPUS), says({"templates": []}), says({"endpoints": [ENDPOINT]})]
        code, text = await against(script, "--check", "--secrets", "HF_TOKEN", answers=answers)
        assert (code, "The endpoint ep1 is as specified; apply changes nothing." in text) == (0, True)
        assert "note: the variable HF_TOKEN is not set on this machine" in text
        answers = [says(GPUS), says({"templates": []}), says({"endpoints": [ENDPOINT]})]
        code, text = await against(
            script, "--secrets", "HF_TOKEN", "--workers-max", "5", "--offline", answers=answers, HF_TOKEN="hf_new"
        )
        assert (code, "Nothing was compared" in text) == (0, True)


async def test_a_difference_is_shown_by_field_and_no_value_of_a_variable() -> None:
    volume = {"id": "vol1", "name": "demo", "size": 20, "dataCenter": "EU-RO-1", "type": "STANDARD"}
    async with scripted() as script:
        answers = [
            *(says(GPUS), says({"networkVolumes": [volume]}), says({"templates": []})),
            says({"endpoints": [ENDPOINT]}),
        ]
        options = ("--secrets", "HF_TOKEN", "--workers-max", "5", "--network-volume-gb", "50", "--environment", "A=b-c")
        code, text = await against(script, *options, "--data-center", "EU-RO-1", answers=answers, HF_TOKEN="hf_new")
    assert code == 0, "only --check makes a difference an exit code"
    for field in ("workers.max", "env.HF_TOKEN", "env.A", "networkVolume.size", "networkVolumes", "dataCenterIds"):
        assert f"│ {field} " in text
    assert "(concealed)" in text
    assert not any(secret in text for secret in ("hf_new", "hf_there", "b-c"))


async def test_what_runpod_cannot_change_is_marked_and_a_template_is_compared_too() -> None:
    volume = {"id": "vol1", "name": "demo", "size": 100, "dataCenter": "EU-RO-1", "type": "STANDARD"}
    template = {"id": "tpl1", "name": "demo", "image": "you/worker:0", "env": ENDPOINT["env"]}
    async with scripted() as script:
        answers = [
            *(says(GPUS), says({"networkVolumes": [volume]}), says({"templates": [template]})),
            says({"endpoints": [{**ENDPOINT, "type": "LOAD_BALANCER"}]}),
        ]
        options = ("--container", "template", "--network-volume-gb", "50", "--data-center", "EU-RO-1")
        code, text = await against(script, *options, answers=answers)
    assert code == 0
    for line in ("networkVolume.size", "type "):
        assert any(f"│ {line}" in row and "(RunPod cannot change it)" in row for row in text.splitlines())
    assert "│ template.image " in text


async def test_an_endpoint_of_somebody_else_is_refused() -> None:
    foreign = {**ENDPOINT, "env": {}}
    async with scripted() as script:
        answers = [says(GPUS), says({"templates": []}), says({"endpoints": [foreign]})]
        with pytest.raises(ConfigurationError, match="this command did not make"):
            await against(script, answers=answers)


async def test_runpods_refusal_names_the_remedy_and_no_key() -> None:
    async with scripted() as script:
        with pytest.raises(ServiceError) as error:
            await against(script, answers=[problem(401, "bad key")])
    assert "key" in error.value.message
    assert KEY not in error.value.message


def test_the_month_of_a_worker_that_always_runs() -> None:
    _, text = plan("--workers-min", "1")
    assert f"{Decimal('0.576') * 720:,.2f}" in text


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([*LEAST, "--offline"], 0, ""),
        (["--file", "/nowhere/deploy.yaml", "--offline"], 1, "/nowhere/deploy.yaml: No such file or directory. Name"),
        ([*LEAST, "--offline", "--flashboot", "fast"], 2, "invalid choice: 'fast'"),
        (["--image"], 2, "expected one argument"),
    ],
)
async def test_the_command_ends_with_its_exit_code(arguments: list[str], code: int, said: str) -> None:
    ended = await process.run("-m", "vllm_service", "deploy", "plan", *arguments)
    assert (ended.code, said in ended.stderr) == (code, True)
    assert bool(ended.stdout) == (code == 0)
