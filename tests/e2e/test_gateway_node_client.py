"""The real OpenAI SDK for Node through the gateway: node/client.mjs again, unchanged, with another base URL and key."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest

from scripts.demo_training.corpus import WEATHER_TOOL, load_pairs, pirate
from tests.e2e.process import environment
from tests.e2e.road import Road, opened_road
from tests.e2e.test_openai_node_client import PARIS, install, run

pytestmark = pytest.mark.skipif(
    not (shutil.which("node") and shutil.which("npm")), reason="node and npm are not installed: nothing to test with"
)


@pytest.fixture(scope="module")
async def road(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Road]:
    async with opened_road(tmp_path_factory.mktemp("road")) as road:
        yield road


@pytest.fixture(scope="module")
async def results(road: Road) -> dict[str, Any]:
    await install()
    variables = environment(
        OPENAI_BASE_URL=road.gateway.url, OPENAI_API_KEY=road.key, WEATHER_TOOL=json.dumps(WEATHER_TOOL)
    )
    document: dict[str, Any] = json.loads(await run("node", "client.mjs", variables=variables))
    await road.endpoint.until_free()
    return document


def test_chat_whole_and_streamed_with_usage(results: dict[str, Any]) -> None:
    assert results["chat"]["text"] == results["streaming"]["text"] == PARIS
    assert results["streaming"]["usage"]["completion_tokens"] == results["chat"]["usage"]["completion_tokens"]
    assert results["streaming"]["pieces"] > 3


def test_text_of_adapter_and_emojis_arrives_whole(results: dict[str, Any]) -> None:
    (trained,) = [pair.answer for pair in load_pairs() if pair.question == "Celebrate with emojis."]
    assert results["emoji"] == trained
    assert results["adapter"] == pirate(PARIS)


@pytest.mark.parametrize("call", ["tool", "streamedTool", "forcedTool"])
def test_tools_are_called(results: dict[str, Any], call: str) -> None:
    assert results[call]["name"] == "get_weather"


def test_structured_output_completions_and_responses(results: dict[str, Any]) -> None:
    assert set(results["structured"]) == {"name", "is_known"}
    assert results["completions"]["streamed"] == results["completions"]["whole"]
    assert results["responses"] == {"whole": PARIS, "streamed": PARIS, "last": "response.completed"}


@pytest.mark.parametrize(
    ("mistake", "kind", "status", "named"),
    [
        ("unknownModel", "NotFoundError", 404, "nobody"),
        ("unknownModelStreamed", "NotFoundError", 404, "nobody"),
        ("badTemperature", "BadRequestError", 400, "temperature"),
        ("wrongKey", "AuthenticationError", 401, "key"),
    ],
)
def test_a_mistake_throws_the_error_of_its_status(
    results: dict[str, Any], mistake: str, kind: str, status: int, named: str
) -> None:
    error = results["errors"][mistake]
    assert (error["kind"], error["status"]) == (kind, status)
    assert named in error["message"]


def test_a_prompt_over_the_context_is_400_as_at_openai(results: dict[str, Any]) -> None:
    assert results["errors"]["promptOverTheContext"]["status"] == 400


async def test_whoever_comes_after_calls_that_were_left_is_answered_and_nothing_runs_on(
    results: dict[str, Any], road: Road
) -> None:
    assert results["abortedStream"]["firstPiece"] == "chat.completion.chunk"
    assert results["abortedCall"]["kind"] == "APIUserAbortError"
    assert results["timedOutCall"]["kind"] == "APIConnectionTimeoutError"
    for call in ("abortedStream", "abortedCall", "timedOutCall"):
        assert results[call]["then"]["text"] == PARIS
    assert await road.endpoint.measure("worker_jobs_total", outcome="stopped") == 3
    assert await road.endpoint.measure("vllm:num_requests_running") == 0
