"""What hosted providers are made to do wrong really happens on the wire, in the same order for the same seed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from runpod_emulator import HostedFaults, HostedModel, HostedProviders, HostedSettings
from runpod_emulator.errors import BadRequest
from runpod_emulator.hosted import expected_answer, read_config
from runpod_emulator.hosted.faults import HostedInjector
from tests.runpod_emulator.support import HandClock
from tests.waiting import until

MODEL = HostedModel(id="m", input_usd=Decimal(1), output_usd=Decimal(1), answer_tokens=8)
BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
STREAM = BODY | {"stream": True}


class Wire:
    """One provider, and the bytes that come back from it."""

    def __init__(self, hosted: HostedProviders, clock: HandClock, client: httpx.AsyncClient) -> None:
        self.provider = hosted.providers["p"]
        self.base_url = hosted.base_url("p")
        self.meter = self.provider.meter
        self.clock = clock
        self.client = client

    def inject(self, **faults: Any) -> None:
        self.provider.inject(HostedFaults(**faults))

    async def chat(self, body: dict[str, Any] = BODY) -> httpx.Response:
        return await self.client.post("/v1/chat/completions", json=body)

    async def read(self, body: dict[str, Any]) -> tuple[bytes, bool]:
        """What came, and whether it ended as HTTP wants it."""
        received = b""
        try:
            async with self.client.stream("POST", "/v1/chat/completions", json=body) as response:
                async for piece in response.aiter_bytes():
                    received += piece
        except httpx.TransportError:
            return received, False
        return received, True


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    clock = HandClock()
    async with (
        HostedProviders([HostedSettings(name="p", models=(MODEL,))], clock=clock) as hosted,
        httpx.AsyncClient(base_url=f"{hosted.origin}/hosted/p", trust_env=False, timeout=20) as client,
    ):
        yield Wire(hosted, clock, client)


async def test_faults_are_set_read_and_ended_over_http(wire: Wire) -> None:
    answer = await wire.client.post("/faults", json={"rate_limit_share": 1, "retry_after_seconds": 7})
    assert answer.json()["rate_limit_share"] == 1
    refused = await wire.chat()
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "7")
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert (await wire.client.post("/faults", json={})).status_code == 200
    assert (await wire.chat()).status_code == 200
    assert (await wire.client.post("/faults", json={"rate": 1})).status_code == 400


@pytest.mark.parametrize(
    ("faults", "error"),
    [
        ({"rate_limit_share": 1}, openai.RateLimitError),
        ({"error_500_share": 1}, openai.InternalServerError),
        ({"error_503_share": 1}, openai.InternalServerError),
        ({"storm_seconds": 1}, openai.RateLimitError),
        ({"reset_share": 1}, openai.APIConnectionError),
        ({"down_seconds": 1, "down_as": "reset"}, openai.APIConnectionError),
    ],
)
async def test_a_fault_is_the_clients_own_exception_and_free(
    wire: Wire, faults: dict[str, Any], error: type[Exception]
) -> None:
    wire.inject(**faults)
    async with openai.AsyncOpenAI(base_url=wire.base_url, api_key="k", max_retries=0) as client:
        with pytest.raises(error):
            await client.chat.completions.create(**BODY)
    assert sum(wire.meter.faults.values()) == 1
    assert wire.meter.bill()["usd"] == "0"


async def test_storms_and_times_of_being_down_come_and_go(wire: Wire) -> None:
    async def statuses() -> list[int]:
        seen = []
        for _ in range(6):
            seen.append((await wire.chat()).status_code)
            wire.clock.pass_(5)
        return seen

    wire.inject(storm_every_seconds=20, storm_seconds=10)
    assert await statuses() == [429, 429, 200, 200, 429, 429]
    wire.inject(down_every_seconds=10, down_seconds=5)
    assert await statuses() == [503, 200] * 3
    assert (await wire.client.get("/v1/models")).status_code == 503


def test_the_same_seed_makes_the_same_fates() -> None:
    def fates(seed: int) -> list[str | None]:
        injector = HostedInjector(HostedFaults(rate_limit_share=0.2, error_500_share=0.1, seed=seed), 0)
        return [injector.next(0).kind for _ in range(300)]

    assert fates(1) == fates(1) != fates(2)
    assert 40 <= fates(1).count("rate_limit") <= 80
    assert 15 <= fates(1).count("error_500") <= 45


@pytest.mark.parametrize("body", [BODY, STREAM], ids=["plain", "stream"])
@pytest.mark.parametrize("how", ["close", "reset", "clean"])
async def test_an_answer_can_be_cut_at_every_byte(wire: Wire, body: dict[str, Any], how: str) -> None:
    whole, ended = await wire.read(body)
    assert ended
    step = 1 if how == "close" and body is BODY else 97
    for position in range(0, len(whole), step):
        wire.inject(cut_share=1, cut_after_bytes=position, cut=how)
        received, ended = await wire.read(body)
        assert ended == (how == "clean")
        assert len(received) <= position if how == "reset" else len(received) == position
        assert b"[DONE]\n\n" not in received


async def test_a_stream_can_be_cut_after_an_event_and_pays_for_what_came(wire: Wire) -> None:
    for events in range(5):
        wire.inject(cut_share=1, cut_after_events=events)
        received, ended = await wire.read(STREAM)
        assert not ended
        assert received.count(b"\n\n") == events
    assert wire.meter.counts["broken"] == 5
    assert wire.meter.counts["events_out"] == sum(range(5))


async def test_a_stream_can_end_in_an_error_event(wire: Wire) -> None:
    wire.inject(cut_share=1, cut_after_events=4, cut="error")
    async with openai.AsyncOpenAI(base_url=wire.base_url, api_key="k", max_retries=0) as client:
        with pytest.raises(openai.APIError, match="The server had an error"):
            async for _ in await client.chat.completions.create(**STREAM):
                pass


@pytest.mark.parametrize("faults", [{"hang_share": 1}, {"cut_share": 1, "cut_after_events": 2, "cut": "stall"}])
async def test_silence_lasts_until_the_client_leaves(wire: Wire, faults: dict[str, Any]) -> None:
    wire.inject(**faults)
    asking = asyncio.create_task(wire.read(STREAM))
    await until(lambda: sum(wire.meter.faults.values()) == 1)
    assert not asking.done()
    asking.cancel()
    await until(lambda: wire.meter.counts["in_flight"] == 0)


async def test_garbage_is_a_success_that_is_none(wire: Wire) -> None:
    wire.inject(garbage_share=1, seed=3)
    bodies = [(await wire.chat()).content for _ in range(40)]
    assert len(set(bodies)) == 6
    assert not any(b'"choices": [{"index"' in body for body in bodies)
    streams = {(await wire.read(STREAM))[0] for _ in range(40)}
    assert any(b"[DONE]" in stream and b"chat.completion.chunk" in stream for stream in streams)
    assert any(b"[DONE]" not in stream for stream in streams)
    assert wire.meter.bill()["usd"] == "0"


async def test_a_slow_body_arrives_whole(wire: Wire) -> None:
    wire.inject(slow_share=1, slow_bytes_per_second=4000)
    answer = await wire.chat()
    assert answer.json()["choices"][0]["message"]["content"] == expected_answer("hi", 8)


async def test_sixty_four_callers_are_answered_and_billed_exactly(wire: Wire) -> None:
    wire.inject(rate_limit_share=0.2, error_500_share=0.1)

    async def caller(number: int) -> list[int]:
        body = STREAM if number % 2 else BODY
        return [(await wire.chat(body)).status_code for _ in range(5)]

    statuses = [status for each in await asyncio.gather(*map(caller, range(64))) for status in each]
    completed = statuses.count(200)
    stats = (await wire.client.get("/stats")).json()
    assert stats["bytes_in"] == sum(len(json.dumps(body, separators=(",", ":"))) for body in (BODY, STREAM)) * 160
    assert stats["statuses"] == {str(status): statuses.count(status) for status in sorted(set(statuses))}
    assert stats["completed"] == completed < 320 == stats["requests"]
    bill = (await wire.client.get("/bill")).json()
    assert bill["requests"] == completed
    assert Decimal(bill["usd"]) == Decimal(completed * 9) / 1_000_000


@pytest.mark.parametrize(
    "document",
    [
        {"rate_limit_share": 1.1},
        {"rate_limit_share": 0.6, "reset_share": 0.6},
        {"cut": "sideways"},
        {"down_as": "404"},
        {"cut_after_bytes": -1},
        {"seed": None},
        {"storm_seconds": "long"},
        [],
    ],
)
def test_faults_that_cannot_be_are_refused(document: object) -> None:
    with pytest.raises(BadRequest):
        HostedFaults.parse(document)


def test_providers_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "providers.json"
    model = {"id": "m", "input_usd": 0.15, "output_usd": "0.60"}
    provider = {"name": "p", "models": [model], "ttft_seconds": 0.3, "faults": {"cut_share": 0.5}}
    path.write_text(json.dumps({"providers": [provider]}))
    (settings,) = read_config(path)
    assert settings.models[0].input_usd == Decimal("0.15")
    assert settings.faults.cut_share == 0.5
    wrongs: list[dict[str, object]] = [
        {"name": "a b"},
        {"name": "p", "speed": 1},
        {"name": "p", "ttft_seconds": -1},
        {"models": []},
    ]
    for wrong in wrongs:
        path.write_text(json.dumps({"providers": [wrong]}))
        with pytest.raises(ValueError, match=r"providers\.json"):
            read_config(path)


def test_the_documentations_example_is_read_and_names_every_fault(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "emulator.md").read_text(encoding="utf-8")
    section = page.partition("## Hosted providers")[2]
    path = tmp_path / "providers.json"
    path.write_text(section.partition("```json\n")[2].partition("```")[0])
    assert read_config(path)[0].models[0].answer_tokens == 200
    assert [name for name in HostedFaults().to_json() if f"`{name}`" not in section] == []
