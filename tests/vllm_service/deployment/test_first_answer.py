"""A wait for the first answer, whose faults on the way pass or stay."""

from __future__ import annotations

import asyncio

import pytest

from tests.vllm_service.deployment.deployed import KEY
from tests.vllm_service.runpod.scripted import problem, raw, says, scripted
from vllm_service.deployment.endpoint_calls import EndpointCalls
from vllm_service.deployment.first_answer import FirstRequest
from vllm_service.deployment.situation import Situation
from vllm_service.deployment.worker_logs import LogLine
from vllm_service.errors import UpstreamFailed
from vllm_service.runpod.command_http import open_send
from vllm_service.runpod.endpoint import Reply, SendHttp
from vllm_service.runpod.rest_api import RestApi
from vllm_service.runpod.workers import EndpointWorkers

QUEUED, DONE = says({"status": "IN_QUEUE"}), says({"status": "COMPLETED", "output": {"data": [{"id": "m"}]}})


class Unwatched:
    """Shows nothing."""

    def saw(self, situation: Situation, workers: EndpointWorkers | None, seconds: float) -> None:
        """Takes the workers."""

    def logged(self, line: LogLine) -> None:
        """Takes a line."""


async def one_turn(seconds: float) -> None:
    """Passes the time at once; others have a turn."""
    await asyncio.sleep(0)


async def refuse(method: str, url: str, headers: object, body: bytes, timeout_seconds: float) -> Reply:
    """RunPod's REST API does not answer; only the endpoint does."""
    raise OSError("no answer")


async def answered(send: SendHttp, origin: str) -> str:
    api = RestApi(origin, KEY, refuse, longest_wait_seconds=0.0)
    calls = EndpointCalls({"run": f"{origin}/v2/ep/run"}, KEY, send)
    request = FirstRequest(api, "ep", calls, Unwatched(), longest_seconds=60.0, sleep=one_turn)
    return (await request.run()).text


async def test_faults_that_pass_do_not_end_the_wait() -> None:
    async with scripted() as script, open_send() as send:
        chat = says({"choices": [{"message": {"content": "Paris"}}]})
        faults = [raw(502, b"<html>", "text/html"), b"", problem(429, "later")]
        script.answers = [says({"id": "j"}), QUEUED, *faults, DONE, chat]
        assert await answered(send, script.origin) == "Paris"


async def test_a_refusal_that_stays_ends_it_and_takes_the_job_back() -> None:
    async with scripted() as script, open_send() as send:
        script.answers = [says({"id": "j"}), QUEUED, problem(401, "no"), says({})]
        with pytest.raises(UpstreamFailed, match="the endpoint answered 401 for the waking job"):
            await answered(send, script.origin)
        assert script.asked[-1][1] == "/v2/ep/cancel/j"
