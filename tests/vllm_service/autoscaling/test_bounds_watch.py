"""An endpoint that RunPod scales down by itself is noticed, is hoped for nothing from, and is used again later."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace

import pytest

from tests.vllm_service.autoscaling.managed import KEY, PLACE, PROVIDER, Managed, World
from vllm_service.autoscaling.bounds_watch import BoundsWatch
from vllm_service.catalog.model import Management, ManagementApi, Provider
from vllm_service.domain.plan import WorkerTarget
from vllm_service.runpod.endpoint import Reply
from vllm_service.runpod.rate_limits import RateLimits

LOOK = f"GET {PLACE.url}"
UNCONFIGURED = replace(PROVIDER, expected=())


class Account:
    """RunPod: an endpoint's most workers, or another answer; and how often it was asked."""

    def __init__(self, most: object) -> None:
        self.most = most
        self.answer: Reply | Exception | None = None
        self.looks = 0
        self.now = 0.0

    async def __call__(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, timeout_seconds: float
    ) -> Reply:
        assert (method, body) == ("GET", b"")
        self.looks += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer or Reply(200, json.dumps({"workers": {"min": 0, "max": self.most}}).encode(), {})

    def watch(self, provider: Provider = UNCONFIGURED, management: Management = PLACE) -> BoundsWatch:
        return BoundsWatch(provider, management, self, limits=RateLimits(), clock=lambda: self.now)

    async def pass_time(self, watch: BoundsWatch, seconds: int, **seen: bool) -> None:
        for _ in range(seconds):
            self.now += 1
            if seen:
                watch.observe(**seen)
            await watch.look()


async def test_the_bounds_are_read_every_five_minutes_and_while_there_may_be_no_worker_every_minute() -> None:
    account = Account(3)
    watch = account.watch()
    await account.pass_time(watch, 600)
    assert (account.looks, watch.most, watch.scaled_down) == (2, 3, None)
    account.most = 0
    await account.pass_time(watch, 1)
    assert (account.looks, watch.most) == (3, 0)
    await account.pass_time(watch, 300)
    assert account.looks == 8
    account.most = 3
    await account.pass_time(watch, 60)
    assert (watch.most, watch.scaled_down) == (3, None)


ODD: tuple[object, ...] = (None, "0", -1, 0.5, True, 2**40, [])


@pytest.mark.parametrize(
    ("provider", "numbers", "is_scaled_down"),
    [
        (UNCONFIGURED, [3, 2], True),  # it was more before
        (UNCONFIGURED, [2], False),  # as far as is known, it was made so
        (UNCONFIGURED, [2, 1], False),
        (UNCONFIGURED, [3, 1], False),  # not RunPod's doing
        (UNCONFIGURED, [0], True),
        (PROVIDER, [2], True),  # expected.max_workers is 3
        (PROVIDER, [3], False),
        (PROVIDER, [5, 3], False),
        (replace(PROVIDER, expected=(("max_workers", 2.0),)), [2], False),
        (replace(PROVIDER, expected=(("max_workers", 2.0),)), [9, 2], False),
        *((UNCONFIGURED, [3, odd], False) for odd in ODD),
    ],
)
async def test_what_runpod_does_by_itself_is_told_from_what_its_owner_did(
    provider: Provider, numbers: list[object], is_scaled_down: bool
) -> None:
    account = Account(None)
    watch = account.watch(provider)
    for account.most in numbers:
        await account.pass_time(watch, 300)
    assert (watch.scaled_down is not None) == is_scaled_down


async def test_each_change_is_logged_once_with_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    account = Account(3)
    watch = account.watch()
    for account.most in (3, 2, 2, 0, 0, 0, 3, 3):
        await account.pass_time(watch, 300)
    said = [record.getMessage() for record in caplog.records]
    assert [(record.levelname, text.partition(",")[0]) for record, text in zip(caplog.records, said, strict=True)] == [
        ("WARNING", "own is scaled down: RunPod lets it have 2 workers instead of 3"),
        ("WARNING", "own is scaled down: RunPod lets it have no worker"),
        ("INFO", "own is scaled down no longer: RunPod lets it have 3 workers"),
    ]
    assert all("deploy apply" in text for text in said[:2])


async def test_a_worker_that_does_not_come_is_a_reason_to_look_once_before_the_time() -> None:
    account = Account(3)
    watch = account.watch()
    await account.pass_time(watch, 10, is_wanted=True, is_seen=True)
    assert account.looks == 1
    account.most = 0
    await account.pass_time(watch, 21, is_wanted=True, is_seen=False)
    assert (account.looks, watch.most) == (2, 0)
    account.most = 3
    await account.pass_time(watch, 19, is_wanted=False, is_seen=False)
    await account.pass_time(watch, 22, is_wanted=False, is_seen=True)  # it runs, so the number is old
    assert (account.looks, watch.most) == (3, 3)
    await account.pass_time(watch, 100, is_wanted=True, is_seen=False)
    assert account.looks == 4
    await account.pass_time(watch, 100, is_wanted=True, is_seen=False)
    assert account.looks == 4


@pytest.mark.parametrize(
    ("answer", "most"),
    [
        (Reply(403, b"{}", {}), None),
        (Reply(410, b"{}", {}), None),
        (Reply(200, b"<html>", {}), None),
        (Reply(200, b"[]", {}), None),
        (Reply(500, b"", {}), 0),
        (Reply(429, b"", {}), 0),
        (TimeoutError(), 0),
    ],
)
async def test_what_cannot_be_read_is_unknown_and_what_fails_for_a_moment_stays_as_it_was(
    answer: Reply | Exception, most: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    account = Account(0)
    watch = account.watch()
    await account.pass_time(watch, 1)
    caplog.clear()
    account.answer = answer
    await account.pass_time(watch, 1800)
    assert watch.most == most
    assert len(caplog.records) == (most is None)
    assert KEY not in caplog.text


async def test_version_1_is_read_too_and_a_reload_keeps_what_is_known_of_the_same_endpoint() -> None:
    account = Account(0)
    watch = account.watch()
    await account.pass_time(watch, 1)
    same, other = account.watch(), account.watch(management=Management("other", "http://rest"))
    for later in (same, other):
        later.take_over(watch)
    assert (same.most, other.most) == (0, None)
    await account.pass_time(same, 30)
    assert account.looks == 1
    account.answer = Reply(200, b'{"workersMin": 0, "workersMax": 4}', {})
    old = account.watch(management=Management("ep", "http://rest", ManagementApi.V1))
    await account.pass_time(old, 1)
    assert old.most == 4


async def test_no_more_workers_are_ordered_than_may_be_and_none_before_the_first_look() -> None:
    account = Account(1)
    watch = account.watch()
    target = WorkerTarget("own", 3, "demand", always_on=2)
    assert (watch.allowed(target).workers, watch.allowed(target).always_on) == (0, 0)
    await account.pass_time(watch, 1)
    assert (watch.allowed(target).workers, watch.allowed(target).always_on) == (1, 1)
    account.answer = Reply(403, b"{}", {})
    await account.pass_time(watch, 300)
    assert watch.allowed(target) == target
    refused = Account(None)
    refused.answer = TimeoutError()
    watch = refused.watch()
    await refused.pass_time(watch, 1)
    assert watch.allowed(target) == target


@pytest.mark.parametrize("provider", [PROVIDER, replace(PROVIDER, workers_min=None)])
async def test_nothing_is_ordered_from_an_endpoint_that_may_have_no_worker_until_it_may_again(
    provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(provider, platform=Managed(None, workers_max=0, health={"workers": {"idle": 0}}))
    replica = world.replica(0)
    await world.rounds(replica, count=2)
    replica.router.workers = 2
    await world.rounds(replica, count=120)
    assert (world.platform.patches, [call for call in world.platform.asked if call.startswith("POST")]) == (0, [])
    assert caplog.text.count("own is scaled down") == 1
    world.platform.workers_max = 1
    await world.rounds(replica, count=70)
    ordered = world.platform.set_to == [1] or "POST http://x/v2/ep/run" in world.platform.asked
    assert ordered


async def test_a_replica_reads_the_bounds_seldom_however_often_it_looks_at_the_workers() -> None:
    world = World(replace(PROVIDER, workers_min=None), platform=Managed(None, workers_max=3))
    await world.rounds(world.replica(0), count=600)
    assert world.platform.asked.count(LOOK) == 2
