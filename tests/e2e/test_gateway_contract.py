"""The gateway process as strangers meet it: schemathesis on its document, and canaries in all that it shows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from runpod_emulator import Emulator, EndpointSettings
from runpod_emulator.hosted import HostedModel, HostedSettings
from tests.e2e.gateway import Gateway, command, configure, gateway, variables_of
from tests.e2e.road import PATIENT
from tests.vllm_service.api.schema_run import assert_conforms, operations
from tests.vllm_service.canary import Canaries, contents, process_list
from tests.waiting import until_seen

MODEL = "m"


@dataclass(frozen=True)
class Stage:
    """A gateway in front of a hosted provider; canaries are its keys, and the prompts of the test."""

    gateway: Gateway
    emulator: Emulator
    canaries: Canaries
    key: str

    @property
    def address(self) -> str:
        return self.gateway.url.removesuffix("/v1")


@pytest.fixture(scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with opened_stage(tmp_path_factory.mktemp("stage")) as stage:
        yield stage


@asynccontextmanager
async def opened_stage(directory: Path) -> AsyncIterator[Stage]:
    canaries = Canaries()
    provider = HostedSettings(name="hosted", api_key=canaries.provider_key, models=(HostedModel(id=MODEL),))
    async with Emulator(EndpointSettings(), None, hosted=[provider]) as emulator:
        configure(
            directory,
            {"hosted": {"base_url": emulator.hosted_url("hosted"), "api_key_env": "HOSTED_KEY"}},
            {MODEL: {"offers": [{"provider": "hosted", "model": MODEL}], "context_length": 131072}},
        )
        key = await command("keys", "create", "acme", "--tier", "enterprise", **variables_of(directory))
        told = {"HOSTED_KEY": canaries.provider_key, "REQUIRE_KEYS": "true", **PATIENT}
        async with gateway(directory, **told, LOG_LEVEL="DEBUG") as running:
            yield Stage(running, emulator, Canaries(key=key, provider_key=canaries.provider_key), key)


async def test_every_operation_of_the_whole_gateway_keeps_the_document(stage: Stage) -> None:
    chosen = await asyncio.to_thread(operations, stage.address, stage.key)
    assert {"/v1/chat/completions", "/v1/embeddings", "/v1/models"} <= {one.path for one in chosen}
    for operation in chosen:
        made = await asyncio.to_thread(assert_conforms, operation, stage.key, MODEL)
        assert made >= 1


async def test_no_key_and_no_prompt_is_seen_anywhere(stage: Stage) -> None:
    canaries = stage.canaries
    async with httpx.AsyncClient(trust_env=False, base_url=stage.address) as client:
        own = {"authorization": f"Bearer {stage.key}"}
        said = {"model": MODEL, "messages": [{"role": "user", "content": canaries.prompt}]}
        shown = [
            (await client.post("/v1/chat/completions", json=body, headers=headers)).text
            for body in (said, said | {"model": canaries.prompt[:10]}, said | {"temperature": -5}, said | {"n": "x"})
            for headers in (own, {"authorization": "Bearer wrong"})
        ]
        faults = stage.emulator.hosted_url("hosted").removesuffix("/v1") + "/faults"
        for fault in ({"error_500_share": 1}, {"garbage_share": 1}, {"reset_share": 1}, {}):
            (await client.post(faults, json=fault)).raise_for_status()
            shown.append((await client.post("/v1/chat/completions", json=said, headers=own)).text)
        pages = ("/metrics", "/health", "/performance", "/performance/latency", "/v1/models", "/openapi.json")
        shown += [(await client.get(page, headers=own)).text for page in pages]
    assert "choices" in shown.pop(0)  # what the provider said is the caller's

    async def exported() -> str:
        rows = await command("ledger", "export", **variables_of(stage.gateway.directory))
        return rows if rows.count("\n") >= 12 else ""

    ledger = await until_seen(exported)
    canaries.assert_unseen(*shown, ledger, process_list(), *contents([stage.gateway.directory]))
