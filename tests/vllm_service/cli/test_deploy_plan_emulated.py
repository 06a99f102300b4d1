"""`deploy plan` against an emulated RunPod: before there is an endpoint, beside one that is as specified, and after."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from runpod_emulator import Emulator, EndpointSettings
from tests.contract.rest_contract import checked
from vllm_service.cli import deploy_plan
from vllm_service.cli.deploy_options import spec_of
from vllm_service.cli.exit_codes import DIFFERS
from vllm_service.cli.parser import parse
from vllm_service.deployment.desired import container_environment, endpoint_body, template_body, volume_body
from vllm_service.deployment.hub import Hub
from vllm_service.deployment.planning import files_of, make_plan, pools_of
from vllm_service.deployment.spec import DeploymentSpec
from vllm_service.domain.worker_lives import KnownBy, WorkerLife
from vllm_service.runpod.command_http import open_send
from vllm_service.runpod.rest_api import RestApi
from vllm_service.storage.ledger.lives import put
from vllm_service.storage.open import open_database

KEY = "rpa_secret"
DEMO = str(Path(__file__).resolve().parents[3] / "demo_model")
OPTIONS = (
    *("deploy", "plan", "--check", "--name", "demo", "--model", DEMO, "--image", "you/worker:1"),
    *("--network-volume-gb", "20", "--data-center", "EU-RO-1", "--secrets", "HF_TOKEN"),
)
LOCAL = {"HF_TOKEN": "hf_secret"}


def emulator() -> Emulator:
    return Emulator(EndpointSettings(api_key=KEY), rest_quotas={})


def spec(*more: str) -> DeploymentSpec:
    return spec_of(parse([*OPTIONS, *more]))


async def plan(origin: str, *more: str, environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Runs the action as its users do; returns its exit code and what it prints."""
    variables = {"RUNPOD_API_KEY": KEY, "RUNPOD_REST_URL": origin, **(environment or LOCAL)}
    text = io.StringIO()
    console = Console(file=text, width=220)
    code = await asyncio.to_thread(deploy_plan.run, parse([*OPTIONS, *more]), variables, console)
    return code, text.getvalue()


async def make(api: RestApi, wanted: DeploymentSpec, *, with_template: bool = False) -> dict[str, Any]:
    """Makes what the specification wants; returns the endpoint."""
    environment = container_environment(wanted, LOCAL)
    volume = await api.post("/v2/network-volumes", volume_body(wanted))
    template = await api.post("/v2/templates", template_body(wanted, environment)) if with_template else {}
    pools = await pools_of(wanted, api, Hub(offline=True))
    body = endpoint_body(wanted, pools, environment, volume_id=volume["id"], template_id=template.get("id"))
    return await api.post("/v2/serverless", body)


async def test_what_is_planned_and_made_is_as_specified_and_a_change_is_seen() -> None:
    async with emulator() as runpod, open_send() as send:
        code, text = await plan(runpod.origin)
        assert (code, "RunPod has no endpoint demo; apply makes it." in text) == (DIFFERS, True)
        api = RestApi(runpod.origin, KEY, checked(send))
        endpoint = await make(api, spec())
        code, text = await plan(runpod.origin)
        assert (code, f"The endpoint {endpoint['id']} is as specified" in text) == (0, True), text
        await api.patch(f"/v2/serverless/{endpoint['id']}", {"workers": {"max": 2}})
        code, text = await plan(runpod.origin)
        assert (code, "workers.max" in text) == (DIFFERS, True)
        code, text = await plan(runpod.origin, environment={"HF_TOKEN": "hf_another"})
        assert "env.HF_TOKEN" in text
        assert not any(secret in text for secret in ("hf_secret", "hf_another", KEY))


async def test_an_endpoint_that_was_made_from_a_template_is_as_specified() -> None:
    async with emulator() as runpod, open_send() as send:
        await make(RestApi(runpod.origin, KEY, checked(send)), spec("--container", "template"), with_template=True)
        code, text = await plan(runpod.origin, "--container", "template")
        assert code == 0, text


@pytest.mark.parametrize(
    "more",
    [
        ("--scaler", "request_count", "--scaler-value", "8"),
        ("--flashboot", "off", "--disk-gb", "40", "--gpus-per-worker", "2", "--min-cuda-version", "any"),
        ("--scaler-value", "2.5", "--gpu-pools", "ADA_24,AMPERE_24", "--lora-modules", "pirate=/a b/pirate"),
    ],
    ids=range(3),
)
async def test_every_kind_of_endpoint_is_as_specified_once_made(more: tuple[str, ...]) -> None:
    async with emulator() as runpod, open_send() as send:
        await make(RestApi(runpod.origin, KEY, checked(send)), spec(*more))
        code, text = await plan(runpod.origin, *more)
        assert code == 0, text


async def test_prices_and_stock_are_the_catalogues(capsys: pytest.CaptureFixture[str]) -> None:
    async with emulator() as runpod:
        code, _ = await plan(runpod.origin, "--json")
    document = json.loads(capsys.readouterr().out)
    assert (code, document["prices_from"], document["chosen_pools"]) == (DIFFERS, "RunPod's catalogue", ["AMPERE_16"])
    assert document["pools"][0]["usd_per_hour"] == "0.576"
    assert document["pools"][0]["stock"] in ("LOW", "MEDIUM", "HIGH")
    assert "hf_secret" not in json.dumps(document)


async def test_a_cold_start_is_what_the_ledger_has_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with emulator() as runpod, open_send() as send:
        endpoint = await make(RestApi(runpod.origin, KEY, checked(send)), spec())
        life = WorkerLife(
            life_id="one",
            provider="own",
            endpoint_id=endpoint["id"],
            worker_id="w",
            started_at_us=1_796_000_000_000_000,
            ready_at_us=1_796_000_041_500_000,
            known_by=KnownBy.WORKERS,
            last_seen_us=1_796_000_041_500_000,
            gpu_type="NVIDIA RTX A4000",
            booked_until_us=1_796_000_000_000_000,
        )
        database = await open_database(None, tmp_path)
        await database.write(put(life))
        await database.close()
        await plan(runpod.origin, "--json", "--data-dir", str(tmp_path))
        pools = json.loads(capsys.readouterr().out)["pools"]
        assert {pool["pool"]: pool["cold_start_seconds"] for pool in pools[:2]} == {
            "AMPERE_16": 41.5,
            "AMPERE_24": None,
        }
        _, text = await plan(runpod.origin, "--data-dir", str(tmp_path / "none"))
        assert "note: no cold start is known, because the ledger cannot be read:" in text
        _, text = await plan(runpod.origin, environment={**LOCAL, "DATA_DIR": str(tmp_path / "none")})
        assert "no cold start is known" not in text


async def test_our_requests_and_runpods_answers_are_as_published() -> None:
    async with emulator() as runpod, open_send() as send:
        api = RestApi(runpod.origin, KEY, checked(send))
        wanted = replace(spec(), gpus_per_worker=2)
        found = await make_plan(wanted, files_of(wanted, Hub(offline=True)), api, LOCAL)
        assert found.differences
        assert found.endpoint_id is None
