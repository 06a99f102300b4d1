"""Whatever the order of events, the job loop loses nothing, answers nothing twice, and respects its slots."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from handler.engine.protocol import EngineRequest
from handler.errors import EngineUnavailable, InvalidInput
from handler.jobs import GenericRoute, ParsedJob
from handler.outputs import Output, StreamPiece
from handler.queue.job_loop import JobLoop, Pauses
from tests.handler.queue.fake_platform import FakePlatform
from tests.waiting import turns

PAUSES = Pauses(retry=0.0001, longest_retry=0.0001, deliver=1.0, grace=1.0, last_look=0.0001)


class Puppet:
    """An answerer whose jobs advance only when the test says so."""

    def __init__(self) -> None:
        self.orders: dict[str, asyncio.Queue[str]] = {}
        self.running: set[str] = set()

    def parse(self, job_input: Any) -> ParsedJob:
        return ParsedJob(GenericRoute(route=job_input["name"]), EngineRequest("GET", "/"))

    async def outputs(self, job: ParsedJob) -> AsyncGenerator[Output, None]:
        assert isinstance(job.form, GenericRoute)
        name = job.form.route
        assert name not in self.running, "a job runs twice at the same time"
        self.running.add(name)
        self.orders[name] = asyncio.Queue()
        try:
            while True:
                order = await self.orders[name].get()
                if order == "piece":
                    yield StreamPiece("data: 1\n\n")
                elif order == "fail":
                    raise InvalidInput("wrong")
                else:
                    return
        finally:
            self.running.discard(name)


class JobLoopMachine(RuleBasedStateMachine):
    """take, run, stream, cancel, finish, fail, duplicate delivery, failing polls and posts, shutdown, dead engine."""

    @initialize(capacity=st.integers(1, 4))
    def start(self, capacity: int) -> None:
        self.runner = asyncio.Runner()
        self.capacity, self.submitted, self.cancelled = capacity, 0, set[str]()
        self.platform, self.puppet = FakePlatform(), Puppet()
        self.shut = False
        self.runner.run(self._start())

    async def _start(self) -> None:
        self.loop = JobLoop(self.platform, self.puppet, lambda: self.capacity, PAUSES)
        self.task = asyncio.create_task(self.loop.run())
        await settle()

    def do(self, action: Any = None) -> None:
        """Acts inside the event loop, then lets everything come to rest."""

        async def act() -> None:
            if action:
                action()
            await settle()

        self.runner.run(act())

    @rule(count=st.integers(1, 3))
    def submit(self, count: int) -> None:
        def act() -> None:
            for _ in range(count):
                name = f"job-{self.submitted}"
                self.submitted += 1
                self.platform.submit(name, {"name": name})

        self.do(act)

    @precondition(lambda self: self.puppet.running)
    @rule(data=st.data(), order=st.sampled_from(["piece", "finish", "fail"]))
    def advance(self, data: st.DataObject, order: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.puppet.running)))
        self.do(lambda: self.puppet.orders[name].put_nowait(order))

    @precondition(lambda self: self.puppet.running)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.puppet.running)))
        self.cancelled.add(name)
        self.do(lambda: self.platform.stop(name))

    @precondition(lambda self: self.puppet.running)
    @rule(data=st.data())
    def deliver_again(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.puppet.running)))
        self.do(lambda: self.platform.submit(name, {"name": name}))

    @rule(takes=st.integers(0, 2), posts=st.integers(0, 2))
    def break_the_network(self, takes: int, posts: int) -> None:
        self.platform.fail_next(takes=takes, posts=posts)
        self.do()

    @precondition(lambda self: not self.shut)
    @rule(dead=st.booleans())
    def shut_down(self, dead: bool) -> None:
        self.shut = True
        self.do(lambda: self.loop.shut_down(EngineUnavailable("dead") if dead else None))

    @invariant()
    def never_more_jobs_than_slots(self) -> None:
        assert len(self.puppet.running) <= self.capacity

    @invariant()
    def every_delivery_is_answered_at_most_once(self) -> None:
        """A job may be delivered again after its end: RunPod retries a failed one under its old id."""
        posted = self.platform.results_posted
        assert all(count <= self.platform.taken.count(name) for name, count in posted.items())

    @invariant()
    def heartbeats_name_exactly_the_jobs_in_progress(self) -> None:
        assert len(self.platform.in_progress) == self.loop.jobs_in_progress

    def teardown(self) -> None:
        """After the shutdown every job that was taken has its answer, unless the platform itself stopped it."""
        if hasattr(self, "runner"):
            self.runner.run(self._finish())
            self.runner.close()

    async def _finish(self) -> None:
        self.loop.shut_down()
        for name in list(self.puppet.running):
            self.puppet.orders[name].put_nowait("finish")
        async with asyncio.timeout(5):
            await self.task
        unanswered = set(self.platform.taken) - set(self.platform.results) - self.cancelled
        assert unanswered == set()
        assert self.platform.in_progress == set()
        assert self.puppet.running == set()


async def settle() -> None:
    """Lets every task run until it waits; the pauses of the loop are far shorter."""
    for _ in range(5):
        await turns(20)
        await asyncio.sleep(0.0005)


JobLoopMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestJobLoop = JobLoopMachine.TestCase
