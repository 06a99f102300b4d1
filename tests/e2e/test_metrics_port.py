"""A gateway that is public: /metrics wants a key at its own port, and none at METRICS_PORT, which has nothing else."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.e2e.gateway import Gateway, command, configure, gateway, variables_of
from tests.e2e.process import run
from tests.e2e.test_gateway_processes import free_ports
from tests.waiting import until_seen
from vllm_service.domain.roles import Role

PROVIDERS = {"hosted": {"base_url": "http://127.0.0.1:9/v1"}}
MODELS = {"small": {"offers": [{"provider": "hosted", "model": "small"}]}}


@dataclass(frozen=True)
class Public:
    gateway: Gateway
    #: By role.
    keys: dict[str, str]

    async def status(self, path: str, role: Role | None) -> int:
        headers = {} if role is None else {"authorization": f"Bearer {self.keys[role]}"}
        async with httpx.AsyncClient(trust_env=False) as client:
            port = httpx.URL(self.gateway.url).port
            return (await client.get(f"http://127.0.0.1:{port}{path}", headers=headers)).status_code


@asynccontextmanager
async def public(directory: Path, **more: str) -> AsyncIterator[Public]:
    configure(directory, PROVIDERS, MODELS)
    keys = {
        role.value: await command("keys", "create", "acme", "--role", role, **variables_of(directory))
        for role in (Role.CALLER, Role.VIEWER)
    }
    async with gateway(directory, SERVICE_HOST="0.0.0.0", REQUIRE_KEYS="true", **more) as running:
        yield Public(running, keys)


async def test_a_public_gateway_shows_its_metrics_to_viewers_alone(tmp_path: Path) -> None:
    async with public(tmp_path) as service:
        found = [await service.status("/metrics", role) for role in (None, Role.CALLER, Role.VIEWER)]
        assert found == [401, 403, 200]
        assert await service.status("/v1/metrics", None) == 401


async def test_a_port_of_its_own_needs_no_key_and_ends_with_the_gateway(tmp_path: Path) -> None:
    port = free_ports(1) + 1
    async with public(tmp_path, METRICS_PORT=str(port), METRICS="false") as service:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            scraped = await client.get("/metrics")
            others = [(await client.get(path)).status_code for path in ("/health", "/v1/models", "/", "/openapi.json")]
            chat = await client.post("/v1/chat/completions", json={"model": "small", "messages": []})
            large = await client.post("/metrics", content=b" " * 1_000_000)
        assert (scraped.status_code, others, chat.status_code, large.status_code) == (200, [404] * 4, 404, 413)
        assert "vllm_requests_total" in scraped.text
        assert "127.0.0.1" not in scraped.text
        assert await service.status("/metrics", Role.VIEWER) == 404
        await service.gateway.stop()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False)


async def test_a_port_that_is_taken_ends_the_start_with_the_settings_names(tmp_path: Path) -> None:
    configure(tmp_path, PROVIDERS, MODELS)
    async with gateway(tmp_path) as running:
        taken = str(httpx.URL(running.url).port)
        variables = variables_of(tmp_path / "second", METRICS_PORT=taken, CONFIG_DIR=str(tmp_path))
        finished = await run("-m", "vllm_service", "serve", **variables)
    assert finished.code == 1
    assert f"METRICS_HOST=127.0.0.1, METRICS_PORT={taken}: cannot listen there" in finished.stderr
    assert "set METRICS_PORT to another port" in finished.stderr


async def test_an_address_of_another_machine_ends_the_start_with_the_host_to_mend(tmp_path: Path) -> None:
    configure(tmp_path, PROVIDERS, MODELS)
    variables = variables_of(tmp_path, METRICS_PORT="0", METRICS_HOST="192.0.2.1", CONFIG_DIR=str(tmp_path))
    finished = await run("-m", "vllm_service", "serve", **variables)
    assert finished.code == 1
    assert "METRICS_HOST=192.0.2.1, METRICS_PORT=0: cannot listen there" in finished.stderr
    assert "Set METRICS_HOST to an address or a name of this machine." in finished.stderr


async def test_a_role_is_changed_while_the_gateway_runs(tmp_path: Path) -> None:
    async with public(tmp_path) as service:
        assert await service.status("/performance", Role.CALLER) == 403
        where = variables_of(tmp_path)
        listed = json.loads(await command("keys", "list", "--json", **where))["keys"]
        (caller,) = [key["id"] for key in listed if key["role"] == "caller"]
        await command("keys", "role", caller, "viewer", **where)

        async def applied() -> bool:
            return await service.status("/performance", Role.CALLER) == 200

        assert await until_seen(applied)
