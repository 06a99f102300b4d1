"""A job loop whose engine is gone takes nothing, and loses nothing that it has taken and not begun."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

from prometheus_client import CollectorRegistry

from handler.errors import EngineUnavailable
from handler.metrics import WorkerMetrics
from tests.handler.queue.fake_platform import FakePlatform
from tests.handler.queue.job_script import QUICK, Script, running
from tests.waiting import turns, until

DEAD = EngineUnavailable("the engine has died")


class Engine:
    """What the loop sees of an engine: its slots, and whether requests can begin."""

    def __init__(self, slots: int) -> None:
        self.script = Script()
        self._slots = slots
        self.looks = 0

    def capacity(self) -> int:
        self.looks += 1
        return 0 if self.script.gone else self._slots

    def dies(self) -> None:
        self.script.gone = True


async def test_of_many_waiting_jobs_none_is_taken_once_the_engine_is_gone() -> None:
    platform, engine = FakePlatform(), Engine(slots=8)
    names = [f"job-{number}" for number in range(700)]
    async with running(platform, engine.script, engine.capacity) as loop:
        for name in names:
            platform.submit(name, {"wait": True, "break": True, "pieces": []})
        await until(lambda: engine.script.running == 8)
        engine.dies()
        engine.script.go_on.set()  # what ran fails
        for name in names[:8]:
            assert json.loads((await platform.result(name))["error"])["status"] == 503
        looks = engine.looks
        await until(lambda: engine.looks > looks + 20)  # the loop has had time to take more
        loop.shut_down(DEAD)
    assert platform.taken == names[:8]
    assert len(platform.results) == 8
    assert len(platform.waiting) == 692


async def test_jobs_that_a_poll_brings_after_the_end_of_the_engine_go_back_without_an_end() -> None:
    platform, engine, registry = FakePlatform(), Engine(slots=8), CollectorRegistry()
    async with running(platform, engine.script, engine.capacity, metrics=WorkerMetrics(registry)) as loop:
        platform.submit("runs", {"wait": True})
        await until(lambda: engine.script.running == 1)
        engine.dies()
        for number in range(20):
            platform.submit(str(number), {})
        await until(lambda: len(platform.taken) > 1)  # by the poll that was open
        await turns(50)
        loop.shut_down(DEAD)
        await platform.result("runs")
    assert set(platform.results) == {"runs"}
    assert platform.in_progress == set(), "no heartbeat may keep the platform from giving them to another worker"
    returned = registry.get_sample_value("worker_jobs_total", {"outcome": "returned"})
    assert returned == len(platform.taken) - 1
    assert registry.get_sample_value("worker_jobs_in_progress") == 0


async def test_a_job_that_has_not_begun_begins_once_the_engine_is_back() -> None:
    platform, engine = FakePlatform(), Engine(slots=4)
    async with running(platform, engine.script, engine.capacity) as loop:
        await turns(20)  # a poll is open
        engine.dies()
        platform.submit("a", {"x": 1})
        await platform.until_taken("a")
        await turns(50)
        assert loop.jobs_begun == 0
        engine.script.gone = False
        assert (await platform.result("a"))["output"] == {"said": {"x": 1}}
    assert platform.results_posted["a"] == 1


async def test_a_job_that_has_not_begun_can_be_stopped() -> None:
    platform, engine = FakePlatform(), Engine(slots=4)
    async with running(platform, engine.script, engine.capacity) as loop:
        await turns(20)
        engine.dies()
        platform.submit("a", {})
        await platform.until_taken("a")
        platform.stop("a")
        await until(lambda: not loop.jobs_in_progress)
        engine.script.gone = False
        platform.submit("b", {})
        await platform.result("b")
    assert set(platform.results) == {"b"}


async def test_a_shutdown_ends_in_time_although_the_platform_takes_no_ends() -> None:
    platform, engine = FakePlatform(), Engine(slots=4)
    platform.takes_results.clear()
    pauses = replace(QUICK, grace=0.05, last_deliver=0.05, deliver=600)
    async with asyncio.timeout(5), running(platform, engine.script, engine.capacity, pauses):
        platform.submit("a", {})
        await platform.until_offered("a")
