"""Batch jobs against a scripted platform: what is sent, what is repeated, what is never sent twice."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.vllm_service.client.runpod_provider import AT_ONCE, runpod
from vllm_service import BatchJob, BatchState, RunPodVLLMService, errors
from vllm_service.testing import RESETS, ReceivedRequest, Reply, ScriptedProvider, refused, whole

Script = dict[str, Reply | list[Reply]]


def batch(status: str = "DRAFT", **counts: int) -> Reply:
    numbers = {f"request{name.capitalize()}": number for name, number in counts.items()}
    return whole({"id": "b1", "status": status} | numbers)


def page(*ids: str, more: bool = False, status: str = "COMPLETED") -> Reply:
    return whole({"requests": [{"id": one, "status": status, "output": one} for one in ids], "hasMore": more})


@asynccontextmanager
async def platform(script: Script) -> AsyncIterator[tuple[RunPodVLLMService, ScriptedProvider]]:
    """Answers each `METHOD path below /batch` once, or in turn; the last one again and again."""
    remaining = {name: list(reply) if isinstance(reply, list) else [reply] for name, reply in script.items()}

    def reply(request: ReceivedRequest) -> Reply:
        turns = remaining[sent(request)]
        return turns.pop(0) if len(turns) > 1 else turns[0]

    async with runpod(reply) as server, RunPodVLLMService(base_url=server.url, retry=AT_ONCE) as service:
        yield service, server


def sent(request: ReceivedRequest) -> str:
    return f"{request.method} {request.target.removeprefix('/v2/ep/batch')}".strip()


def calls(server: ScriptedProvider) -> list[str]:
    return [sent(request) for request in server.requests]


async def test_a_batch_is_made_empty_and_its_requests_are_added() -> None:
    async with platform({"POST": batch(), "POST /b1/requests": batch()}) as (service, server):
        made = await service.create_batch([{"prompt": "x"}, {"prompt": "y"}])
    assert (made.id, calls(server)) == ("b1", ["POST", "POST /b1/requests"])
    assert server.requests[0].json == []
    assert server.requests[1].json == {"requests": [{"input": {"prompt": "x"}}, {"input": {"prompt": "y"}}]}


async def test_a_creation_is_repeated_after_a_refusal_only() -> None:
    async with platform({"POST": [refused(429), batch()]}) as (service, server):
        await service.create_batch()
        assert calls(server) == ["POST", "POST"]
    async with platform({"POST": RESETS}) as (service, server):
        with pytest.raises(errors.UpstreamFailed) as caught:
            await service.create_batch()
        assert (calls(server), caught.value.is_transient) == (["POST"], False)


async def test_an_addition_whose_answer_was_lost_is_repeated_only_if_it_did_not_arrive() -> None:
    lost: Script = {"POST": batch(), "POST /b1/requests": [RESETS, batch()]}
    async with platform(lost | {"GET /b1": batch(total=2)}) as (service, server):
        await (made := await service.create_batch()).add([{"n": 1}, {"n": 2}])
        assert calls(server) == ["POST", "POST /b1/requests", "GET /b1"]
        assert await made.add([]) == 2
    async with platform(lost | {"GET /b1": batch(total=0)}) as (service, server):
        assert await (await service.create_batch()).add([{"n": 1}, {"n": 2}]) == 2
        assert calls(server) == ["POST", "POST /b1/requests", "GET /b1", "POST /b1/requests"]
    async with platform(lost | {"GET /b1": batch(total=1)}) as (service, server):
        with pytest.raises(errors.UpstreamFailed, match="another caller adds to it"):
            await (await service.create_batch()).add([{"n": 1}, {"n": 2}])


async def test_after_an_addition_of_which_nothing_is_known_the_next_one_asks_first() -> None:
    script: Script = {
        "POST": batch(),
        "POST /b1/requests": [RESETS, batch()],
        "GET /b1": [refused(403), batch(total=2)],
    }
    async with platform(script) as (service, server):
        made = await service.create_batch()
        with pytest.raises(errors.ServiceError):
            await made.add([{"n": 1}, {"n": 2}])
        assert await made.add([{"n": 3}]) == 3
        assert calls(server)[2:] == ["GET /b1", "GET /b1", "POST /b1/requests"]


async def test_a_batch_that_is_found_again_is_counted_before_anything_is_added() -> None:
    async with platform({"GET /b1": batch(total=7), "POST /b1/requests": batch()}) as (service, server):
        assert await service.batch_job("b1").add([{"n": 1}]) == 8
    assert calls(server) == ["GET /b1", "POST /b1/requests"]


async def test_finalizing_is_not_repeated_when_it_has_been_done() -> None:
    script: Script = {"POST /b1/finalize": [RESETS, refused(409)], "GET /b1": batch("FINALIZED", total=1)}
    async with platform(script) as (service, server):
        assert (await service.batch_job("b1").finalize()).state is BatchState.FINALIZED
    assert calls(server) == ["POST /b1/finalize", "GET /b1"]


async def test_waiting_reports_progress_until_every_request_has_ended() -> None:
    seen: list[tuple[int, int]] = []
    turns = [batch("FINALIZED", total=2, completed=0), refused(503), batch("FINALIZED", total=2, completed=1, failed=1)]
    async with platform({"GET /b1": turns}) as (service, _):
        done = await service.batch_job("b1").wait(progress=lambda ended, total: seen.append((ended, total)))
    assert (done.completed, done.failed, seen) == (1, 1, [(0, 2), (2, 2)])


@pytest.mark.parametrize(
    ("answer", "expected", "named"),
    [
        (batch("CANCELLED", total=3, completed=1), errors.ServiceError, "1 of 3 requests have results"),
        (batch("FAILED", total=3), errors.UpstreamFailed, "failed as a whole"),
        (batch("DRAFT", total=3), errors.InvalidRequest, "finalize it first"),
        (refused(404), errors.NotFound, "refused"),
        (batch("FINALIZED", completed=1), errors.UpstreamFailed, "has no requestTotal"),
    ],
    ids=["cancelled", "failed", "draft", "unknown", "without a total"],
)
async def test_waiting_for_what_will_not_come_is_an_error(
    answer: Reply, expected: type[errors.ServiceError], named: str
) -> None:
    async with platform({"GET /b1": answer}) as (service, _):
        with pytest.raises(expected, match=named):
            await service.batch_job("b1").wait()


async def test_a_wait_ends_in_time_and_the_batch_goes_on() -> None:
    async with platform({"GET /b1": batch("FINALIZED", total=9, completed=4)}) as (service, server):
        with pytest.raises(errors.GatewayTimeout, match="4 of 9"):
            await service.batch_job("b1").wait(timeout_seconds=0)
    assert calls(server) == ["GET /b1"]


def list_of(start: int) -> str:
    return f"GET /b1/requests?offset={start}&limit=100"


async def test_results_are_read_page_by_page_and_again_after_a_broken_one() -> None:
    script: Script = {list_of(0): [RESETS, page("a", "b", more=True)], list_of(2): page("c")}
    async with platform(script) as (service, server):
        found = [result.output async for result in service.batch_job("b1").results()]
        assert (found, calls(server)) == (["a", "b", "c"], [list_of(0), list_of(0), list_of(2)])


async def test_results_go_on_behind_the_last_one_that_was_read() -> None:
    async with platform({list_of(0): page("a", "b", more=True), list_of(1): page("b", "c")}) as (service, _):
        job = service.batch_job("b1")
        first = await anext(job.results())
        rest = [result.id async for result in job.results(start=first.position + 1)]
    assert (first.id, rest) == ("a", ["b", "c"])


async def test_no_result_comes_twice_and_requests_without_one_are_left_out() -> None:
    script: Script = {
        list_of(0): page("a", "b", more=True),
        list_of(2): page("b", "c", more=True),
        list_of(4): page("d", status="IN_QUEUE"),
    }
    async with platform(script) as (service, _):
        job = service.batch_job("b1")
        assert [result.id async for result in job.results()] == ["a", "b", "c"]
        assert [request.id async for request in job.requests()] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("endless", [page(more=True), page("a", "b", more=True)], ids=["empty", "the same again"])
async def test_a_list_that_does_not_end_is_an_error(endless: Reply) -> None:
    script: Script = {list_of(0): page("a", "b", more=True), list_of(2): endless, list_of(4): endless}
    async with platform(script) as (service, _):
        with pytest.raises(errors.UpstreamFailed, match="does not end"):
            async for _ in service.batch_job("b1").results():
                pass


async def test_a_batch_is_cancelled_renamed_and_loses_a_request() -> None:
    nothing = Reply((b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n",))
    script: Script = {
        "POST /b1/cancel": [RESETS, batch("CANCELLED")],
        "PUT /b1": whole({}),
        "DELETE /b1/requests/r%201": nothing,
    }
    async with platform(script) as (service, server):
        job = service.batch_job("b1")
        await job.rename("nightly")
        await job.remove("r 1")
        assert (await job.cancel()).state is BatchState.CANCELLED
    assert server.requests[0].json == {"name": "nightly"}


@pytest.mark.parametrize(
    "call",
    [
        lambda service: service.batch_job(".."),
        lambda service: service.batch_job("\n"),
        lambda service: service.openai_input(""),
        lambda service: service.openai_input([]),
    ],
)
async def test_what_cannot_be_asked_is_an_error_before_anything_is_sent(
    call: Callable[[RunPodVLLMService], Any],
) -> None:
    async with RunPodVLLMService(base_url="http://127.0.0.1:9/v2/ep/openai/v1") as service:
        with pytest.raises(errors.InvalidRequest):
            call(service)
        with pytest.raises(errors.InvalidRequest):
            await anext(service.batch_job("b").results(-1))


async def test_an_input_for_the_openai_route_carries_its_key() -> None:
    async with RunPodVLLMService(base_url="http://127.0.0.1:9/v2/ep/openai/v1", default_model="m") as service:
        chat = service.openai_input([{"role": "user", "content": "hi"}], max_tokens=5, key="row-7")
        text = service.openai_input("hi", "other", temperature=None, stop=["."])
    assert chat["openai_route"] == "/v1/chat/completions"
    assert chat["openai_input"]["request_id"] == "row-7"
    assert chat["openai_input"]["max_tokens"] == 5
    assert text == {
        "openai_route": "/v1/completions",
        "openai_input": {"model": "other", "prompt": "hi", "max_tokens": 500, "stop": ["."]},
    }


def test_the_batch_is_documented() -> None:
    assert all(getattr(BatchJob, name).__doc__ for name in vars(BatchJob) if not name.startswith("_"))
