"""A list of workers that is read within the key's limits, and that a key may not read at all."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from vllm_service.runpod.endpoint import Reply
from vllm_service.runpod.rate_limits import RateLimits
from vllm_service.runpod.rest_api import RestApi
from vllm_service.runpod.worker_list import WorkerList
from vllm_service.runpod.workers import WorkerStatus

LISTED = {"workers": [{"id": "w", "status": "IDLE", "gpuCount": 1, "isStale": False}]}
PATH = "/v2/serverless/ep/workers"


@dataclass
class Platform:
    """Answers lists as set, and knows when it was asked. Raises what is an exception."""

    now: float = 0.0
    status: int = 200
    answer: Any = field(default_factory=lambda: LISTED)
    headers: dict[str, str] = field(default_factory=dict)
    asked_at: list[float] = field(default_factory=list)

    async def __call__(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, timeout_seconds: float
    ) -> Reply:
        assert (method, url, body) == ("GET", f"http://x{PATH}", b"")
        self.asked_at.append(self.now)
        if isinstance(self.answer, Exception):
            raise self.answer
        answer = self.answer if isinstance(self.answer, bytes) else json.dumps(self.answer).encode()
        return Reply(self.status, answer, self.headers)

    def api(self, limits: RateLimits | None = None) -> RestApi:
        return RestApi("http://x", "key", self, longest_wait_seconds=0.0, limits=limits, clock=lambda: self.now)

    def list(self, sharers: int = 1, limits: RateLimits | None = None, name: str = "own") -> WorkerList:
        return WorkerList(name, "ep", self.api(limits), lambda: sharers, lambda: self.now, least_seconds=2.0)

    async def rounds(self, *lists: WorkerList, count: int) -> None:
        for _ in range(count):
            for each in lists:
                await each.read()
            self.now += 1.0


def is_known(listed: WorkerList) -> bool:
    return listed.workers is not None


async def test_it_reads_the_workers_every_two_seconds_at_most() -> None:
    platform = Platform()
    listed = platform.list()
    assert await listed.read()
    assert listed.workers is not None
    assert [worker.status for worker in listed.workers.workers] == [WorkerStatus.IDLE]
    assert not await listed.read()
    await platform.rounds(listed, count=21)
    assert platform.asked_at == [float(second) for second in range(0, 21, 2)]


@pytest.mark.parametrize(
    ("sharers", "policy", "interval"),
    [
        (1, "", 2),
        (4, "", 8),  # 60 a minute are assumed, and half of them used
        (30, "", 60),
        (1, '"minute";q=60;w=60', 2),
        (1, '"minute";q=600;w=60', 2),
        (10, '"minute";q=600;w=60', 2),
        (1, '"minute";q=60;w=60, "hour";q=900;w=3600', 8),
        (3, '"minute";q=6;w=60', 60),
        (1, '"minute";q=1;w=999999999', 2),  # no plausible window: as if there were none
        (1, '"minute";q=0;w=60', 2),
    ],
)
async def test_all_lists_of_a_key_take_half_of_what_is_allowed(sharers: int, policy: str, interval: int) -> None:
    platform = Platform(headers={"ratelimit-policy": policy})
    listed = platform.list(sharers)
    await platform.rounds(listed, count=interval + 1)
    assert platform.asked_at == [0.0, interval]


async def test_a_limit_that_is_used_up_is_waited_out_and_says_nothing_against_the_list() -> None:
    platform = Platform()
    limits = RateLimits()
    one, other = platform.list(limits=limits), platform.list(limits=limits)
    await one.read()
    platform.status, platform.headers = 429, {"retry-after": "20"}
    await other.read()
    assert not is_known(other)
    platform.status, platform.headers = 200, {}
    asked = len(platform.asked_at)
    await platform.rounds(one, other, count=20)
    assert len(platform.asked_at) == asked
    await platform.rounds(one, other, count=2)
    assert len(platform.asked_at) == asked + 2
    assert is_known(other)


@pytest.mark.parametrize("status", [401, 403, 404, 410, 501])
async def test_what_is_refused_is_asked_for_again_after_an_hour_and_said_once(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    platform = Platform(status=status, answer={"title": "No", "status": status, "detail": "not for you"})
    listed = platform.list()
    await platform.rounds(listed, count=3 * 3600)
    assert platform.asked_at == [0.0, 3600.0, 7200.0]
    assert not is_known(listed)
    (said,) = caplog.messages
    assert said.startswith(f"own: /health counts its workers, since they cannot be listed: GET {PATH}: RunPod answered")
    assert "not for you" in said
    assert "key" not in said.replace("api_key_env", "").split("; ")[0]
    platform.status, platform.answer = 200, LISTED
    await platform.rounds(listed, count=1)
    assert is_known(listed)
    assert caplog.messages[1:] == ["own: its workers are listed again"]


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (500, {"title": "Oops", "status": 500}),
        (502, b"<html>bad gateway</html>"),
        (200, b"<html>"),
        (200, b'{"workers": ['),
        (200, b"[]"),
        (200, b'{"workers": [{"id": "w", "gpuCount": NaN}]}'),
        (200, TimeoutError()),
        (200, OSError("reset")),
    ],
)
async def test_another_fault_is_of_this_time_only_and_then_ever_rarer(
    status: int, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    platform = Platform()
    listed = platform.list()
    await platform.rounds(listed, count=2)
    platform.status, platform.answer = status, answer
    await platform.rounds(listed, count=598)
    assert not is_known(listed)
    pauses = [later - earlier for earlier, later in zip(platform.asked_at[1:], platform.asked_at[2:], strict=False)]
    assert pauses[:6] == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0]
    assert max(pauses) == 60.0
    assert caplog.messages == []
    platform.status, platform.answer = 200, LISTED
    await platform.rounds(listed, count=61)
    assert is_known(listed)


async def test_an_answer_that_is_no_list_is_taken_for_a_platform_without_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    platform = Platform(answer={"jobs": {}})
    await platform.rounds(platform.list(), count=3600)
    assert platform.asked_at == [0.0]
    assert caplog.messages == [
        f"own: /health counts its workers, since they cannot be listed: {PATH} answers no list of workers"
    ]


async def test_a_clock_that_was_set_back_does_not_end_the_reading() -> None:
    platform = Platform(now=1e9)
    listed = platform.list()
    await listed.read()
    platform.now = 0.0
    assert await listed.read()
