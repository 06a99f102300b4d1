"""How jobs end: a stream that breaks is closed as one, what is rejected says so, and counted is what was delivered."""

from __future__ import annotations

import json

import pytest
from prometheus_client import CollectorRegistry

from handler.metrics import Outcome, WorkerMetrics
from tests.handler.queue.fake_platform import FakePlatform
from tests.handler.queue.job_script import Script, running

FIRST, LONG = "data: 1\n\n", f"data: {'x' * 1000}\n\n"


async def test_a_stream_that_fails_after_its_first_piece_is_closed_as_a_stream_with_an_error() -> None:
    platform = FakePlatform()
    async with running(platform, Script()):
        platform.submit("a", {"pieces": [FIRST], "break": True})
        error = json.loads((await platform.result("a"))["error"])
    assert (error["status"], error["retryable"]) == (503, True)
    assert platform.chunks["a"] == [FIRST]
    assert platform.streamed == {"a"}


async def test_a_job_that_fails_before_any_piece_is_no_stream() -> None:
    platform = FakePlatform()
    async with running(platform, Script()):
        platform.submit("a", {"fail": True})
        assert "error" in await platform.result("a")
    assert platform.streamed == set()


@pytest.mark.parametrize(("pieces", "is_stream"), [([LONG], False), ([FIRST, LONG], True)])
async def test_a_piece_that_the_platform_rejects_fails_the_job_for_good(pieces: list[str], is_stream: bool) -> None:
    """It would be rejected again: whoever tries again pays again."""
    platform = FakePlatform(largest_piece=100)
    async with running(platform, Script()):
        platform.submit("a", {"pieces": pieces})
        error = json.loads((await platform.result("a"))["error"])
    assert error["retryable"] is False
    assert "RunPod rejected a piece of the stream: HTTP 413" in error["error"]["message"]
    assert platform.chunks["a"] == pieces[:-1]
    assert platform.streamed == ({"a"} if is_stream else set())


class Counted:
    """What the worker's metrics say of its jobs."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.metrics = WorkerMetrics(self._registry)

    def ended(self, outcome: Outcome) -> float:
        return self._registry.get_sample_value("worker_jobs_total", {"outcome": outcome}) or 0.0


async def test_a_job_counts_as_completed_only_when_its_result_was_delivered() -> None:
    platform, counted = FakePlatform(failing_posts=2), Counted()
    platform.takes_results.clear()
    async with running(platform, Script(), metrics=counted.metrics):
        platform.submit("a", {})
        await platform.until_offered("a")
        assert counted.ended("completed") == 0
        platform.takes_results.set()
        await platform.result("a")
    assert (counted.ended("completed"), counted.ended("failed")) == (1, 0)


async def test_a_result_that_is_rejected_counts_as_failed() -> None:
    platform, counted = FakePlatform(largest_result=0), Counted()
    async with running(platform, Script(), metrics=counted.metrics):
        platform.submit("a", {})
        await platform.until_offered("a")
    assert (counted.ended("completed"), counted.ended("failed")) == (0, 1)
