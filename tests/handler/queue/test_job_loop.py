"""The job loop with a platform and an answerer that do as the test says: slots, streams, cancellations, shutdown."""

from __future__ import annotations

import asyncio
import json

import pytest

from handler.errors import EngineUnavailable
from handler.queue.job_loop import JobLoop, Pauses
from tests.handler.queue.fake_platform import FakePlatform
from tests.handler.queue.job_script import QUICK, Script, running
from tests.waiting import until


async def test_a_plain_job_is_answered_once() -> None:
    platform = FakePlatform()
    async with running(platform, Script()):
        platform.submit("a", {"x": 1})
        assert (await platform.result("a"))["output"] == {"said": {"x": 1}}
    assert platform.chunks["a"] == []
    assert platform.results_posted["a"] == 1


async def test_a_plain_answer_on_an_openai_route_is_a_list_of_one() -> None:
    platform = FakePlatform()
    async with running(platform, Script()):
        platform.submit("a", {"openai_route": "/v1/models"})
        assert (await platform.result("a"))["output"] == [{"said": {"openai_route": "/v1/models"}}]


async def test_a_stream_is_posted_in_order_and_repeated_at_its_end_only_where_status_readers_expect_it() -> None:
    platform = FakePlatform()
    pieces = ["data: 1\n\n", "data: 2\n\n"]
    async with running(platform, Script()):
        platform.submit("native", {"pieces": pieces})
        platform.submit("openai", {"pieces": pieces, "openai_route": "/v1/chat/completions"})
        assert (await platform.result("native"))["output"] == pieces
        assert (await platform.result("openai"))["output"] == []
    assert platform.chunks["native"] == platform.chunks["openai"] == pieces
    assert platform.streamed == {"native", "openai"}


async def test_taking_goes_on_while_jobs_run_and_a_freed_slot_is_refilled() -> None:
    platform, script = FakePlatform(), Script()
    async with running(platform, script, capacity=2):
        for name in "abc":
            platform.submit(name, {"wait": True})
        await platform.until_taken("a", "b")
        await until(lambda: script.running >= 2)
        assert platform.waiting == ["c"]
        script.go_on.set()
        await platform.result("c")
    assert script.most_running == 2


async def test_a_failed_job_carries_its_error_as_json_text() -> None:
    platform = FakePlatform()
    async with running(platform, Script()):
        platform.submit("a", {"fail": True})
        error = json.loads((await platform.result("a"))["error"])
    assert (error["status"], error["retryable"]) == (400, False)


async def test_a_stopped_job_is_aborted_and_posts_nothing_more() -> None:
    platform, script = FakePlatform(), Script()
    async with running(platform, script) as loop:
        platform.submit("a", {"name": "a", "pieces": ["data: 1\n\n"], "hang": True})
        await platform.chunk("a")
        platform.stop("a")
        await until(lambda: not loop.jobs_in_progress)
        assert script.closed == ["a"]
    assert platform.results_posted["a"] == 0
    assert platform.in_progress == set()


async def test_a_second_delivery_of_a_running_job_is_not_run_twice() -> None:
    platform, script = FakePlatform(), Script()
    async with running(platform, script):
        platform.submit("a", {"wait": True})
        await platform.until_taken("a")
        platform.submit("a", {"wait": True})
        platform.submit("b", {})
        await platform.result("b")
        script.go_on.set()
        await platform.result("a")
    assert script.most_running == 2
    assert platform.results_posted["a"] == 1


async def test_a_result_is_offered_again_until_it_is_delivered() -> None:
    platform = FakePlatform(failing_posts=3)
    async with running(platform, Script()):
        platform.submit("a", {})
        assert "output" in await platform.result("a")


async def test_a_stream_with_a_piece_that_cannot_be_delivered_fails_instead_of_having_a_gap() -> None:
    platform = FakePlatform(failing_posts=1)
    async with running(platform, Script()):
        platform.submit("a", {"pieces": ["data: 1\n\n", "data: 2\n\n"]})
        error = json.loads((await platform.result("a"))["error"])
    assert error["error"]["code"] == "stream_broken"
    assert platform.chunks["a"] == []


@pytest.mark.parametrize("junk", [{"input": {}}, {"id": None, "input": {}}, {"id": ["a"]}, "job", None, 7, []])
async def test_what_is_no_job_is_ignored_and_taking_goes_on(junk: object) -> None:
    platform = FakePlatform()
    async with running(platform, Script()):
        platform.deliver(junk)
        platform.submit("a", {})
        assert "output" in await platform.result("a")


async def test_a_result_that_the_platform_rejects_becomes_an_error_that_says_so() -> None:
    platform = FakePlatform(largest_result=400)
    async with running(platform, Script()):
        platform.submit("a", {"text": "x" * 1000})
        error = json.loads((await platform.result("a"))["error"])
    assert "RunPod rejected the result: HTTP 413" in error["error"]["message"]


async def test_a_job_whose_error_is_rejected_too_gives_its_slot_back() -> None:
    platform = FakePlatform(largest_result=0)
    async with running(platform, Script(), capacity=1) as loop:
        platform.submit("a", {})
        await platform.until_taken("a")
        await until(lambda: not loop.jobs_in_progress)
    assert platform.results == {}


async def test_a_fault_of_an_answerer_fails_its_job_and_not_the_loop() -> None:
    platform = FakePlatform()
    async with running(platform, Script()):
        platform.submit("a", "no object: the script cannot read it")
        assert "AttributeError" in json.loads((await platform.result("a"))["error"])["error"]["message"]
        platform.submit("b", {})
        await platform.result("b")


async def test_taking_goes_on_after_failed_polls() -> None:
    platform = FakePlatform(failing_takes=3)
    async with running(platform, Script()):
        platform.submit("a", {})
        await platform.result("a")


async def test_a_fault_that_stops_the_taking_ends_the_loop_after_the_running_jobs_had_their_answers() -> None:
    platform, script = FakePlatform(), Script()
    task = asyncio.create_task(JobLoop(platform, script, lambda: 4, QUICK).run())
    platform.submit("a", {"wait": True})
    await platform.until_taken("a")
    platform.answer_takes_with = 7
    platform.submit("b", {})
    script.go_on.set()
    with pytest.raises(TypeError):
        async with asyncio.timeout(5):
            await task
    assert "output" in platform.results["a"]


async def test_a_shutdown_lets_running_jobs_finish_and_takes_no_more() -> None:
    platform, script = FakePlatform(), Script()
    async with running(platform, script) as loop:
        platform.submit("a", {"wait": True})
        await platform.until_taken("a")
        loop.shut_down()
        await platform.until_polling_stops()
        platform.submit("b", {})
        script.go_on.set()
        await platform.result("a")
    assert platform.waiting == ["b"]


async def test_a_job_that_outlasts_the_grace_period_fails_as_retryable() -> None:
    platform, script = FakePlatform(), Script()
    async with running(platform, script, pauses=Pauses(grace=0.01, last_look=0.001)) as loop:
        platform.submit("a", {"wait": True})
        await platform.until_taken("a")
        loop.shut_down()
        error = json.loads((await platform.result("a"))["error"])
    assert (error["status"], error["retryable"]) == (503, True)


async def test_a_dead_engine_fails_every_running_job_at_once_as_retryable() -> None:
    platform, script = FakePlatform(), Script()
    async with running(platform, script) as loop:
        for name in "abc":
            platform.submit(name, {"wait": True})
        await platform.until_taken("a", "b", "c")
        loop.shut_down(EngineUnavailable("the engine has died"))
        for name in "abc":
            error = json.loads((await platform.result(name))["error"])
            assert (error["status"], error["retryable"]) == (503, True)


async def test_a_capacity_that_grows_is_used_before_any_job_ends() -> None:
    platform, script = FakePlatform(), Script()
    capacity, looks, has_looked = 1, 0, asyncio.Event()

    def looked_at() -> int:
        nonlocal looks
        looks += bool(platform.taken)
        if looks == 3:
            has_looked.set()
        return capacity

    loop = JobLoop(platform, script, looked_at, Pauses(look_again=0.001))
    for name in "ab":
        platform.submit(name, {"wait": True})
    task = asyncio.create_task(loop.run())
    async with asyncio.timeout(5):
        await has_looked.wait()  # with its one slot taken, it has looked for more several times
        assert (platform.taken, platform.waiting) == (["a"], ["b"])
        capacity = 2
        await platform.until_taken("b")
        loop.shut_down(EngineUnavailable("over"))
        await task


@pytest.mark.parametrize("capacity", [1, 3])
async def test_all_slots_are_used_and_never_more(capacity: int) -> None:
    platform, script = FakePlatform(), Script()
    async with running(platform, script, capacity=capacity):
        for number in range(20):
            platform.submit(str(number), {"pieces": ["data: 1\n\n"], "turns": 20})
        for number in range(20):
            await platform.result(str(number))
    assert script.most_running == capacity
