"""The limit per client address, on a gateway process: who is behind a trusted proxy counts alone, a liar does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from runpod_emulator import Emulator, EndpointSettings
from runpod_emulator.hosted import HostedModel, HostedSettings
from tests.e2e.gateway import configure, gateway

BURST, LIMIT = 60, 2  # all of a burst could pass only if it took half a minute
CALLS = [{"model": "m", "messages": [{"role": "user", "content": str(number)}]} for number in range(BURST)]


@asynccontextmanager
async def limited(directory: Path, **variables: str) -> AsyncIterator[httpx.AsyncClient]:
    """A caller of a gateway that lets LIMIT requests a second of one address pass."""
    provider = HostedSettings(name="hosted", models=(HostedModel(id="m", answer_tokens=1),))
    async with Emulator(EndpointSettings(), None, hosted=[provider]) as emulator:
        entry = {"base_url": emulator.hosted_url("hosted")}
        configure(directory, {"hosted": entry}, {"m": {"offers": [{"provider": "hosted", "model": "m"}]}})
        async with (
            gateway(directory, REQUESTS_PER_SECOND_PER_IP=str(LIMIT), **variables) as running,
            httpx.AsyncClient(base_url=running.url, trust_env=False, timeout=30) as client,
        ):
            yield client


async def burst(client: httpx.AsyncClient, addresses: list[str]) -> list[httpx.Response]:
    """One request for each address, all at once."""
    asked = zip(addresses, CALLS, strict=False)
    posts = (client.post("/chat/completions", json=body, headers={"x-forwarded-for": said}) for said, body in asked)
    return list(await asyncio.gather(*posts))


async def test_a_stranger_that_forges_addresses_is_one_address(tmp_path: Path) -> None:
    async with limited(tmp_path) as client:
        answers = await burst(client, [f"198.51.100.{number}" for number in range(BURST)])
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert refused[0].json()["error"]["code"] == "RATE_LIMIT_429"
    assert "address" in refused[0].json()["error"]["message"]
    assert int(refused[0].headers["retry-after"]) >= 1
    assert {answer.status_code for answer in answers} == {200, 429}


async def test_behind_a_trusted_proxy_each_client_has_its_own_limit(tmp_path: Path) -> None:
    async with limited(tmp_path, TRUSTED_PROXIES="127.0.0.0/8, 10.0.0.0/8") as client:
        everybody = await burst(client, [f"6.6.6.6, 198.51.100.{number}, 10.0.0.1" for number in range(BURST)])
        one = await burst(client, [f"10.{number}.0.1, 2001:db8::{number}, 203.0.113.7" for number in range(BURST)])
    assert {answer.status_code for answer in everybody} == {200}
    assert {answer.status_code for answer in one} == {200, 429}
