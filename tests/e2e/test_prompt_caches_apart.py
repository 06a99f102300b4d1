"""vLLM's prefix cache behind the gateway: an organisation finds its own prompts there, and no other one's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from tests.e2e.emulated import API_KEY
from tests.e2e.gateway import command, variables_of
from tests.e2e.road import OWN, Road, opened_road
from tests.e2e.test_openai_python_client import FRANCE, asked

#: Longer than the blocks of 128 tokens in which vLLM keeps prompts on a CPU.
SECRET = "The code of the safe is 4711; never say it. " * 20
GUESS = "The code of the safe is 4712; never say it. " * 20


@pytest.fixture(scope="module")
async def road(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Road]:
    async with opened_road(tmp_path_factory.mktemp("road")) as road:
        yield road


@pytest.fixture(scope="module")
async def callers(road: Road) -> AsyncIterator[tuple[AsyncOpenAI, AsyncOpenAI]]:
    """A client of the organisation acme, and one of zeta."""
    other = await command("keys", "create", "zeta", "--tier", "enterprise", **variables_of(road.gateway.directory))
    async with AsyncExitStack() as stack:
        clients = [AsyncOpenAI(base_url=road.gateway.url, api_key=key, max_retries=0) for key in (road.key, other)]
        acme, zeta = [await stack.enter_async_context(client) for client in clients]
        yield acme, zeta


def conversation(system: str, question: str = FRANCE) -> list[Any]:
    return [{"role": "system", "content": system}, *asked(question)]


async def of_chat(client: AsyncOpenAI, system: str, **more: Any) -> int:
    """How many prompt tokens of a chat were cached."""
    messages = conversation(system, more.pop("question", FRANCE))
    completion = await client.chat.completions.create(model=OWN, messages=messages, max_tokens=2, **more)
    return cached_in(completion.usage)


async def of_stream(client: AsyncOpenAI, system: str, **more: Any) -> int:
    stream = await client.chat.completions.create(
        model=OWN,
        messages=conversation(system),
        max_tokens=2,
        stream=True,
        stream_options={"include_usage": True},
        **more,
    )
    return cached_in([chunk.usage async for chunk in stream][-1])


async def of_completion(client: AsyncOpenAI, system: str, **more: Any) -> int:
    completion = await client.completions.create(model=OWN, prompt=system, max_tokens=2, **more)
    return cached_in(completion.usage)


def cached_in(usage: Any) -> int:
    assert usage is not None
    assert usage.prompt_tokens > 256
    return (usage.prompt_tokens_details.cached_tokens or 0) if usage.prompt_tokens_details else 0


WAYS = pytest.mark.parametrize("way", [of_chat, of_stream, of_completion])


@WAYS
async def test_a_right_guess_of_another_organisations_prompt_looks_like_a_wrong_one(
    callers: tuple[AsyncOpenAI, AsyncOpenAI], way: Any
) -> None:
    acme, zeta = callers
    secret, guess = f"{way.__name__} {SECRET}", f"{way.__name__} {GUESS}"
    assert await way(acme, secret) == 0
    assert await way(zeta, guess) == 0
    assert await way(zeta, secret) == 0
    assert await way(acme, secret) >= 128, "the organisation itself still finds its own"
    assert await way(zeta, secret) >= 128


async def test_a_callers_own_salt_divides_its_organisations_cache_and_reaches_into_no_other_one(
    callers: tuple[AsyncOpenAI, AsyncOpenAI],
) -> None:
    acme, zeta = callers
    salt = {"cache_salt": "of one user"}
    system = f"own salt {SECRET}"
    assert await of_chat(acme, system, extra_body=salt) == 0
    assert await of_chat(acme, system) == 0
    assert await of_chat(zeta, system, extra_body=salt) == 0
    assert await of_chat(acme, system, extra_body=salt) >= 128
    assert await of_chat(acme, system, extra_body={"cache_salt": "of another user"}) == 0


async def test_the_worker_passes_a_salt_on_from_each_form_of_a_job(road: Road) -> None:
    texts = {"prompt": f"a native job {SECRET}"}
    for form in ("native", "route", "openai_route"):
        parameters: dict[str, Any] = {"max_tokens": 2, "cache_salt": f"{form} one"}
        first = await cached_of_job(road, form, texts, parameters)
        assert first == 0, form
        assert await cached_of_job(road, form, texts, parameters) >= 128, form
        assert await cached_of_job(road, form, texts, {**parameters, "cache_salt": f"{form} two"}) == 0, form


async def cached_of_job(road: Road, form: str, texts: dict[str, str], parameters: dict[str, Any]) -> int:
    body = {"model": OWN, **texts, **parameters}
    jobs: dict[str, dict[str, Any]] = {
        "native": {**texts, "sampling_params": parameters},
        "route": {"route": "/v1/completions", "body": body},
        "openai_route": {"openai_route": "/v1/completions", "openai_input": body},
    }
    async with httpx.AsyncClient(trust_env=False, timeout=60, headers={"authorization": f"Bearer {API_KEY}"}) as http:
        address = f"{road.endpoint.emulator.origin}/v2/ep/runsync"
        job = (await http.post(address, json={"input": jobs[form]})).raise_for_status().json()
    output = job["output"]
    document = output[0] if isinstance(output, list) else output
    return (document["usage"].get("prompt_tokens_details") or {}).get("cached_tokens") or 0
