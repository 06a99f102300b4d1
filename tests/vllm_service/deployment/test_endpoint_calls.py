"""Calls to a deployed endpoint: safe addresses only, answers of any form, and words for what went wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest

from tests.vllm_service.deployment.deployed import KEY
from tests.vllm_service.runpod.scripted import raw, says, scripted
from vllm_service.deployment.endpoint_calls import LONGEST_ANSWER, EndpointCalls, WakingJob, parse_job
from vllm_service.errors import UpstreamFailed
from vllm_service.runpod.command_http import open_send
from vllm_service.runpod.endpoint import Reply

MODELS = {"object": "list", "data": [{"id": "m"}, {"id": 7}, 3, {"id": ""}]}
JOBS: list[tuple[dict[str, Any], WakingJob]] = [
    ({}, WakingJob("UNKNOWN")),
    ({"status": "IN_QUEUE"}, WakingJob("IN_QUEUE")),
    ({"status": ["x"]}, WakingJob("UNKNOWN")),
    ({"status": "a\x1b[2J"}, WakingJob("UNKNOWN")),
    (
        {"status": "COMPLETED", "delayTime": 1500, "output": MODELS},
        WakingJob("COMPLETED", Decimal("1.5"), ("m",)),
    ),
    ({"status": "COMPLETED", "output": [MODELS]}, WakingJob("COMPLETED", None, ("m",))),
    ({"status": "COMPLETED", "output": []}, WakingJob("COMPLETED")),
    ({"status": "COMPLETED", "delayTime": Decimal("1e99999")}, WakingJob("COMPLETED")),
    ({"status": "COMPLETED", "delayTime": True}, WakingJob("COMPLETED")),
    ({"status": "FAILED", "error": "x" * 999}, WakingJob("FAILED", problem="x" * 400)),
    ({"status": "FAILED", "error": {"why": Decimal(1)}}, WakingJob("FAILED", problem='{"why": "1"}')),
]


@pytest.mark.parametrize(("document", "job"), JOBS, ids=[str(document)[:60] for document, _ in JOBS])
def test_a_jobs_state_is_read_leniently(document: dict[str, Any], job: WakingJob) -> None:
    assert parse_job(document) == job
    assert job.has_ended is (job.status in ("COMPLETED", "FAILED"))


async def never(method: str, url: str, headers: Mapping[str, str], body: bytes, timeout_seconds: float) -> Reply:
    raise AssertionError("nothing is sent")


@pytest.mark.parametrize(
    "urls",
    [
        {},
        {"run": None},
        {"run": ""},
        {"run": "ftp://a/run"},
        {"run": "/v2/ep/run"},
        {"run": "http://192.0.2.1/v2/ep/run"},
        {"run": "https://user:pass@host/v2/ep/run"},
        {"base": "http://ep.api.runpod.ai"},
    ],
)
def test_the_key_is_sent_to_no_unsafe_address(urls: dict[str, Any]) -> None:
    with pytest.raises(UpstreamFailed, match="RunPod named"):
        EndpointCalls(urls, KEY, never)


def test_the_addresses_of_both_types() -> None:
    queue = EndpointCalls({"run": "https://api.runpod.ai/v2/ep/run"}, KEY, never)
    balanced = EndpointCalls({"base": "https://ep.api.runpod.ai", "health": "https://x/ping"}, KEY, never)
    assert (queue.has_queue, queue.openai_url) == (True, "https://api.runpod.ai/v2/ep/openai/v1")
    assert (balanced.has_queue, balanced.openai_url) == (False, "https://ep.api.runpod.ai/v1")


CHAT_FAULTS = [
    (says({"error": {"message": "no such model"}}, 404), "answered 404 to a chat request .*no such model"),
    (raw(502, b"<html>"), "answered 502 to a chat request: read the log"),
    (raw(200, b"["), "has no message"),
    (says({"choices": [{"message": {"content": None}}]}), "has no message"),
    (says({"choices": {}}), "has no message"),
    (b"", "did not answer POST /openai/v1/chat/completions"),
    (raw(200, b'{"a":' * 100_000), "has no message"),
]


@pytest.mark.parametrize(("answer", "reason"), CHAT_FAULTS, ids=[reason[:40] for _, reason in CHAT_FAULTS])
async def test_an_answer_that_is_none_is_said_without_the_key(answer: bytes, reason: str) -> None:
    async with scripted() as script, open_send() as send:
        script.answers = [answer]
        calls = EndpointCalls({"run": f"{script.origin}/v2/ep/run"}, KEY, send)
        with pytest.raises(UpstreamFailed, match=reason) as failed:
            await calls.chat("m", "hi", 5)
    assert KEY not in failed.value.message


async def test_a_question_goes_to_the_openai_route_and_a_long_answer_is_shortened() -> None:
    async with scripted() as script, open_send() as send:
        script.answers = [says({"choices": [{"message": {"content": "x" * 9999}}]})]
        calls = EndpointCalls({"run": f"{script.origin}/v2/ep/run"}, KEY, send)
        assert await calls.chat("m", "hi", 5) == "x" * LONGEST_ANSWER
        ((method, target, headers, body),) = script.asked
    assert (method, target, headers["authorization"]) == ("POST", "/v2/ep/openai/v1/chat/completions", f"Bearer {KEY}")
    assert json.loads(body)["messages"] == [{"role": "user", "content": "hi"}]


async def test_a_job_that_is_taken_without_an_id_is_an_error_and_a_cancellation_raises_nothing() -> None:
    async with scripted() as script, open_send() as send:
        script.answers = [says({"id": 7}), b""]
        calls = EndpointCalls({"run": f"{script.origin}/v2/ep/run"}, KEY, send)
        with pytest.raises(UpstreamFailed, match="named no id"):
            await calls.wake(60)
        await calls.cancel("j")


async def test_a_load_balancing_endpoint_has_no_models_until_a_worker_answers() -> None:
    async with scripted() as script, open_send() as send:
        script.answers = [b"", raw(502, b""), says(MODELS)]
        calls = EndpointCalls({"base": script.origin}, KEY, send)
        assert [await calls.models() for _ in range(3)] == [None, None, ("m",)]
        assert {target for _, target, _, _ in script.asked} == {"/v1/models"}


@pytest.mark.parametrize(
    ("status", "is_transient"), [(401, False), (404, False), (408, True), (429, True), (500, True), (502, True)]
)
async def test_a_refusal_says_whether_it_may_pass(status: int, is_transient: bool) -> None:
    async with scripted() as script, open_send() as send:
        script.answers = [raw(status, b"<html>", "text/html")]
        calls = EndpointCalls({"run": f"{script.origin}/v2/ep/run"}, KEY, send)
        with pytest.raises(UpstreamFailed, match=f"the endpoint answered {status} for the waking job") as refused:
            await calls.job("j")
        assert refused.value.is_transient is is_transient


@pytest.mark.parametrize(("wait", "ttl"), [(0.5, 10_000), (1200.2, 1_201_000), (1e308, 604_800_000)])
async def test_the_waking_job_lives_as_long_as_the_wait_within_runpods_bounds(wait: float, ttl: int) -> None:
    async with scripted() as script, open_send() as send:
        script.answers = [says({"id": "j"})]
        assert await EndpointCalls({"run": f"{script.origin}/v2/ep/run"}, KEY, send).wake(wait) == "j"
        assert json.loads(script.asked[0][3])["policy"]["ttl"] == ttl
