"""docs/gateway-api.md's examples run as they are written, and docs/troubleshooting.md quotes what callers are told."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from runpod_emulator import Emulator, EndpointSettings
from runpod_emulator.hosted import HostedModel, HostedSettings
from tests.e2e.gateway import command, configure, gateway, variables_of
from tests.e2e.process import ROOT, environment, run
from vllm_service.api.openapi import ENDPOINTS
from vllm_service.errors import known_codes

API = (ROOT / "docs" / "gateway-api.md").read_text(encoding="utf-8")
TROUBLES = " ".join((ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8").split())
CURLS = [one for block in re.findall(r"```sh\n(.*?)```", API, re.DOTALL) for one in re.split(r"\n(?=curl)", block)]
PROGRAMS = re.findall(r"```python\n(.*?)```", API, re.DOTALL)
PRICE = {"input": 0.1, "output": 0.2, "as_of": "2026-11-21"}


@dataclass(frozen=True)
class Documented:
    """The gateway of the two pages, and keys of it."""

    url: str
    key: str
    viewers_key: str
    directory: Path

    async def told(self, body: Any, key: str | None = None, times: int = 1) -> str:
        """The last error's message when it is asked so often at once, with its waiting time as the page writes it."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"authorization": f"Bearer {self.key if key is None else key}"} if key != "" else {}
        async with httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=60) as client:
            posts = (client.post("/chat/completions", content=content, headers=headers) for _ in range(times))
            failed = [answer for answer in await asyncio.gather(*posts) if answer.status_code != 200]
        message: str = failed[-1].json()["error"]["message"]
        return re.sub(r"in [\d,.]+ s\.", "in ... s.", message)


@asynccontextmanager
async def documented(directory: Path, **more: str) -> AsyncIterator[Documented]:
    provider = HostedSettings(name="hosted", api_key="right", models=(HostedModel(id="there"),))
    async with Emulator(EndpointSettings(), None, hosted=[provider]) as emulator:
        url = emulator.hosted_url("hosted")
        providers = {
            "hosted": {"base_url": url, "api_key_env": "HOSTED_KEY", "prices": {"there": PRICE}},
            "wrong": {"base_url": url, "api_key_env": "WRONG_KEY"},
            "gone": {"base_url": "http://127.0.0.1:1/v1"},
        }
        named = {"demo-model": "hosted", "refused": "wrong", "lost": "gone"}
        models = {name: {"offers": [{"provider": at, "model": "there"}]} for name, at in named.items()}
        configure(directory, providers, models)
        key = await command("keys", "create", "acme", "--tier", "enterprise", **variables_of(directory))
        viewers_key = await command("keys", "create", "acme", "--role", "viewer", **variables_of(directory))
        told = {"HOSTED_KEY": "right", "WRONG_KEY": "wrong", "REQUIRE_KEYS": "true"} | more
        async with gateway(directory, **told) as running:
            yield Documented(running.url, key, viewers_key, directory)


@pytest.fixture(scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Documented]:
    async with documented(tmp_path_factory.mktemp("documented"), REQUESTS_PER_SECOND_PER_IP="100000") as served:
        yield served


async def shell(served: Documented, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(one.replace("http://localhost:8090", served.url.removesuffix("/v1")) for one in arguments),
        env=environment(KEY=served.key, VIEWERS_KEY=served.viewers_key, NO_PROXY="*"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode()


@pytest.mark.parametrize("line", CURLS)
async def test_an_example_with_curl_is_answered(served: Documented, line: str) -> None:
    said = await shell(served, "sh", "-c", line)
    if '"stream": true' in line:
        assert said.rstrip().endswith("data: [DONE]")
        assert '"cost_info"' in said
    else:
        assert "error" not in json.loads(said)


@pytest.mark.parametrize("program", PROGRAMS)
async def test_an_example_in_python_runs(served: Documented, program: str) -> None:
    assert await shell(served, sys.executable, "-W", "error", "-c", program)


def test_the_page_names_every_operation_and_every_code() -> None:
    assert len(CURLS) >= 5
    assert all(endpoint.path in API for endpoint in ENDPOINTS)
    codes = {code for code in known_codes() if not code.startswith(("UPSTREAM_4", "CONFIGURATION"))}
    assert [code for code in codes if f"`{code}`" not in API] == []


async def test_every_quoted_error_is_what_callers_are_told(served: Documented) -> None:
    said: Any = [{"role": "user", "content": "Hi"}]
    few = variables_of(served.directory)
    limited = await command("keys", "create", "small", "--tier", "enterprise", **few)
    await command("keys", "limits", "small", "--requests-per-day", "2", **few)
    slow = await command("keys", "create", "slow", "--tier", "development", **few)
    ask = {"model": "demo-model", "messages": said}
    messages = [
        await served.told(ask, key=""),
        await served.told(ask, key="wrong"),
        await served.told(ask | {"model": "gpt-5"}),
        await served.told(ask | {"model": "lost"}),
        await served.told(ask | {"model": "refused"}),
        await served.told(b" " * 20_000_001),
        await served.told(ask | {"messages": [{"role": "user", "content": "word " * 120_000}]}),
        await served.told(ask, key=slow, times=110),
        await served.told(ask, key=limited, times=5),
    ]
    assert [message for message in messages if message not in TROUBLES] == []


async def test_the_limit_of_an_address_is_quoted_too(tmp_path: Path) -> None:
    async with documented(tmp_path) as served:
        message = await served.told({"model": "demo-model", "messages": [{"role": "user", "content": "Hi"}]}, times=300)
    assert message in TROUBLES


async def test_what_ends_the_start_and_what_check_warns_of_is_quoted(tmp_path: Path) -> None:
    offers = [{"provider": "hosted", "model": "there"}]
    groq = {"groq": {"preset": "groq", "api_key_env": "GROQ_KEY"}}
    hosted = {"hosted": {"base_url": "http://127.0.0.1:1/v1"}}
    configure(tmp_path, hosted | groq, {"demo-model": {"offers": offers}})
    keyless = await run("-m", "vllm_service", "serve", **variables_of(tmp_path))
    configure(tmp_path, hosted, {"demo-model": {"offers": offers}})
    warned = await run("-m", "vllm_service", "check", "--offline", **variables_of(tmp_path))
    open_to_all = await run("-m", "vllm_service", "serve", **variables_of(tmp_path, SERVICE_HOST="0.0.0.0"))
    assert (keyless.code, warned.code, open_to_all.code) == (1, 0, 1)
    assert keyless.stderr.strip().removeprefix(f"{tmp_path}/") in TROUBLES
    assert any(line.removeprefix("warning: ") in TROUBLES for line in warned.stdout.splitlines()[1:])
    assert open_to_all.stderr.partition(". ")[0] in TROUBLES or open_to_all.stderr.partition(" Set")[0] in TROUBLES


async def test_the_refusals_of_a_role_and_of_plain_http_are_quoted(served: Documented, tmp_path: Path) -> None:
    async with httpx.AsyncClient(base_url=served.url, trust_env=False) as client:
        refused = await client.get("/performance", headers={"authorization": f"Bearer {served.key}"})
    assert refused.json()["error"]["message"].partition(" The gateway's operator")[0] in TROUBLES
    own = {"own": {"base_url": "http://10.0.0.7/v1", "api_key_env": "OWN_KEY"}}
    configure(tmp_path, own, {"demo-model": {"offers": [{"provider": "own", "model": "there"}]}})
    plain = await run("-m", "vllm_service", "serve", **variables_of(tmp_path, OWN_KEY="secret"))
    assert plain.code == 1
    assert plain.stderr.strip().partition("providers.yaml:1: ")[2] in TROUBLES
