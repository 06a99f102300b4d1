"""A worker's log as a stream that breaks, repeats itself, is refused, is cut, or never ends."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.vllm_service.deployment.deployed import KEY, no_sleep
from tests.vllm_service.runpod.scripted import HANG, Scripted, problem, raw, scripted
from vllm_service.deployment.worker_logs import LogLine, WorkerLog
from vllm_service.runpod.command_http import open_send
from vllm_service.runpod.rest_api import RestApi
from vllm_service.runpod.rest_errors import RestError

EVENTS = "text/event-stream"


def event(second: int, text: object, **fields: object) -> bytes:
    document = {"source": "container", "line": text, "ts": f"2026-11-29T10:00:{second:02}Z"} | fields
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def stream(*events: bytes) -> bytes:
    return raw(200, b"".join(events), EVENTS)


async def followed(script: Scripted, *answers: bytes) -> list[LogLine]:
    """What is yielded until the worker is gone."""
    script.answers = [*answers, problem(404, "no such worker")]
    async with open_send() as send:
        api = RestApi(script.origin, KEY, send, longest_wait_seconds=0.0)
        return [line async for line in WorkerLog(api, "ep", "w/1", tail=7, sleep=no_sleep).follow()]


async def test_a_stream_that_ends_is_opened_again_where_it_ended_without_a_line_twice() -> None:
    async with scripted() as script:
        lines = await followed(
            script,
            stream(event(1, "a"), event(2, "b")),
            stream(event(2, "b"), event(2, "c"), event(3, "a")),
        )
        asked = [urlsplit(target) for _, target, _, _ in script.asked]
    assert [line.text for line in lines] == ["a", "b", "c", "a"]
    assert {url.path for url in asked} == {"/v2/serverless/ep/workers/w%2F1/logs"}
    assert [parse_qs(url.query) for url in asked] == [
        {"tail": ["7"]},
        {"tail": ["7"], "since": ["2026-11-29T10:00:02Z"]},
        {"tail": ["7"], "since": ["2026-11-29T10:00:03Z"]},
    ]


async def test_a_line_that_a_worker_writes_twice_is_shown_twice() -> None:
    async with scripted() as script:
        lines = await followed(script, stream(event(1, "tick"), event(1, "tick"), event(2, "tick")))
    assert [line.text for line in lines] == ["tick"] * 3


async def test_what_is_no_line_is_left_out_and_what_is_no_time_is_none() -> None:
    async with scripted() as script:
        lines = await followed(
            script,
            stream(
                b"data: [1]\n\n",
                b"data: nonsense\n\n",
                b": comment\n\n",
                event(1, None),
                event(1, "a", ts="\x1b[2J"),
                event(1, "b", ts=7, source="other"),
            ),
        )
    assert lines == [LogLine("w/1", "container", "", "a"), LogLine("w/1", "", "", "b")]


async def test_a_fault_of_runpod_is_waited_out() -> None:
    async with scripted() as script:
        lines = await followed(script, problem(500, "later"), b"", stream(event(1, "a")))
    assert [line.text for line in lines] == ["a"]


@pytest.mark.parametrize("status", [401, 403, 404, 410, 422])
async def test_a_refusal_that_stays_is_raised(status: int) -> None:
    async with scripted() as script:
        with pytest.raises(RestError) as refused:
            await followed(script, problem(status, "no"))
    assert refused.value.status == status
    assert KEY not in refused.value.message


async def test_a_line_without_an_end_does_not_fill_the_memory() -> None:
    async with scripted() as script:
        endless = raw(200, b"data: " + b"x" * 20_000_000, EVENTS)
        lines = await followed(script, endless, stream(event(1, "a")))
    assert [line.text for line in lines] == ["a"]


async def test_what_is_written_is_read_until_nothing_new_comes() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    async with scripted() as script, open_send() as send:
        script.answers = [head + event(1, "a") + event(2, "b") + HANG]
        log = WorkerLog(RestApi(script.origin, KEY, send, longest_wait_seconds=0.0), "ep", "w")
        assert [line.text async for line in log.written(quiet_seconds=0.3)] == ["a", "b"]
