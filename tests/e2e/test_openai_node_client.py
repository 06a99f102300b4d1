"""The real OpenAI SDK for Node at an endpoint: node/client.mjs makes the calls, the tests here judge what they gave."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import AsyncFileLock

from runpod_emulator.jobs.job import Status
from scripts.demo_training.corpus import WEATHER_TOOL, load_pairs, pirate
from tests.e2e.emulated import API_KEY, FREE_SECONDS, Endpoint, emulated_endpoint
from tests.e2e.process import START_SECONDS, environment

FOLDER = Path(__file__).with_name("node")
PARIS = "The capital of France is Paris."
LONG_TOKENS = 2000  # as client.mjs asks for, three times

pytestmark = pytest.mark.skipif(
    not (shutil.which("node") and shutil.which("npm")), reason="node and npm are not installed: nothing to test with"
)


@dataclass(frozen=True)
class Finished:
    """What the script's calls gave, by name, and the endpoint as it was left."""

    results: dict[str, Any]
    endpoint: Endpoint


@pytest.fixture(scope="module")
async def finished(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Finished]:
    await install()
    async with emulated_endpoint(tmp_path_factory.mktemp("worker")) as endpoint:
        variables = environment(
            OPENAI_BASE_URL=endpoint.emulator.openai_url,
            OPENAI_API_KEY=API_KEY,
            WEATHER_TOOL=json.dumps(WEATHER_TOOL),
        )
        output = await run("node", "client.mjs", variables=variables)
        await endpoint.until_free()
        yield Finished(json.loads(output), endpoint)


@pytest.fixture(scope="module")
def results(finished: Finished) -> dict[str, Any]:
    return finished.results


async def install(folder: Path = FOLDER) -> None:
    """`npm ci`, unless what it installed last is as new as the lock file. One process installs, others wait for it."""
    installed, lock = folder / "node_modules" / ".package-lock.json", folder / "package-lock.json"
    async with AsyncFileLock(folder / ".installing"):
        if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
            await run("npm", "ci", "--no-audit", "--no-fund", variables=os.environ, folder=folder)


async def run(program: str, *arguments: str, variables: Mapping[str, str], folder: Path = FOLDER) -> str:
    """What the program wrote; fails with what it complained of."""
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        cwd=folder,
        env=variables,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(START_SECONDS):
            output, complaints = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, f"{program}: {complaints.decode()[-4000:]}"
    return output.decode()


def test_chat_gives_the_trained_answer_and_counts_its_tokens(results: dict[str, Any]) -> None:
    assert results["chat"]["text"] == PARIS
    assert results["chat"]["usage"]["completion_tokens"] > 3


def test_a_stream_is_the_answer_in_pieces_and_then_its_usage(results: dict[str, Any]) -> None:
    assert results["streaming"]["text"] == PARIS
    assert results["streaming"]["pieces"] > 3
    for count in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert results["streaming"]["usage"][count] == results["chat"]["usage"][count]


def test_characters_of_several_tokens_are_streamed_whole(results: dict[str, Any]) -> None:
    (trained,) = [pair.answer for pair in load_pairs() if pair.question == "Celebrate with emojis."]
    assert results["emoji"] == trained


def test_an_adapter_is_a_model_of_its_own(results: dict[str, Any]) -> None:
    assert results["adapter"] == pirate(PARIS)


@pytest.mark.parametrize("call", ["tool", "streamedTool"])
def test_a_tool_is_called_whole_and_streamed(results: dict[str, Any], call: str) -> None:
    assert results[call]["name"] == "get_weather"
    assert json.loads(results[call]["arguments"]) == {"city": "Berlin"}


def test_a_tool_can_be_forced(results: dict[str, Any]) -> None:
    assert results["forcedTool"]["name"] == "get_weather"


def test_structured_output_keeps_to_its_schema(results: dict[str, Any]) -> None:
    person = results["structured"]
    assert set(person) == {"name", "is_known"}
    assert person["name"] in ("Ada", "Grace")
    assert isinstance(person["is_known"], bool)


def test_completions_whole_and_streamed(results: dict[str, Any]) -> None:
    assert results["completions"]["whole"].strip() == PARIS
    assert results["completions"]["streamed"] == results["completions"]["whole"]


def test_responses_whole_and_streamed(results: dict[str, Any]) -> None:
    assert results["responses"] == {"whole": PARIS, "streamed": PARIS, "last": "response.completed"}


def test_models_are_the_model_and_its_adapter(results: dict[str, Any]) -> None:
    assert results["models"] == ["demo-model", "pirate"]


@pytest.mark.parametrize(
    ("mistake", "kind", "status", "named"),
    [
        ("unknownModel", "NotFoundError", 404, "nobody"),
        ("unknownModelStreamed", "NotFoundError", 404, "nobody"),
        ("badTemperature", "BadRequestError", 400, "temperature"),
        ("promptOverTheContext", "BadRequestError", 400, "2048"),
        ("wrongKey", "AuthenticationError", 401, "API key"),
    ],
)
def test_a_mistake_throws_the_error_of_its_status(
    results: dict[str, Any], mistake: str, kind: str, status: int, named: str
) -> None:
    error = results["errors"][mistake]
    assert (error["kind"], error["status"]) == (kind, status)
    assert named in error["message"]


@pytest.mark.parametrize(
    ("call", "kind"), [("abortedCall", "APIUserAbortError"), ("timedOutCall", "APIConnectionTimeoutError")]
)
def test_a_call_that_is_left_throws_what_it_was_left_by(results: dict[str, Any], call: str, kind: str) -> None:
    assert results[call]["kind"] == kind


def test_an_aborted_stream_had_begun_and_its_job_is_cancelled(finished: Finished) -> None:
    aborted = finished.results["abortedStream"]
    assert aborted["firstPiece"] == "chat.completion.chunk"
    assert [job.status for job in finished.endpoint.ended if job.id == aborted["jobId"]] == [Status.CANCELLED]


@pytest.mark.parametrize("call", ["abortedStream", "abortedCall", "timedOutCall"])
def test_whoever_comes_after_an_aborted_call_is_answered_at_once(results: dict[str, Any], call: str) -> None:
    assert results[call]["then"]["text"] == PARIS
    assert results[call]["then"]["seconds"] < FREE_SECONDS


async def test_what_was_aborted_is_stopped_in_the_worker_and_in_the_engine(finished: Finished) -> None:
    endpoint = finished.endpoint
    assert [job.status for job in endpoint.ended].count(Status.CANCELLED) == 3
    assert await endpoint.measure("worker_jobs_total", outcome="stopped") == 3
    assert await endpoint.measure("vllm:generation_tokens_total") < LONG_TOKENS
    assert await endpoint.measure("vllm:num_requests_running") == 0
    assert endpoint.jobs_in_progress == 0
