"""Which worker a request gets, on a hand clock and without HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from runpod_emulator.balancer.affinity import WORKER_HEADER, Affinity, Mode, parse_affinity
from runpod_emulator.balancer.health_checks import Verdict, apply, verdict
from runpod_emulator.balancer.pool import Pool
from runpod_emulator.endpoint.registry import State, Worker
from runpod_emulator.errors import AffinityWorkerGone, ApiError, BadRequest, NoWorker, WorkerTimeout
from runpod_emulator.settings import EndpointSettings
from tests.runpod_emulator.support import Bench

SHORT: dict[str, Any] = {"no_worker_timeout_seconds": 0.02, "pinned_wait_seconds": 0.02}


class Balanced(Bench):
    """A load-balancing endpoint with ready workers, and what would be resumed."""

    def __init__(self, *workers: str, per_worker: int = 2, **settings: Any) -> None:
        super().__init__(
            True, type="load_balancer", scaling="request_count", requests_per_worker=per_worker, **settings
        )
        self.resumed: list[str] = []
        self.may_resume = False
        self.pool = Pool(self.endpoint, self._resume)
        for worker in workers:
            self.ready(worker)

    def ready(self, worker_id: str) -> Worker:
        worker = self.registry.start(worker_id)
        self.registry.restore(worker)
        return worker

    def _resume(self, worker_id: str) -> bool:
        self.resumed.append(worker_id)
        return self.may_resume


@pytest.mark.parametrize(
    ("header", "affinity"),
    [
        (None, None),
        ("", None),
        ("  ", None),
        ("w1", Affinity("w1", Mode.SOFT)),
        ("strict w1", Affinity("w1", Mode.STRICT)),
        (" strict-resume   w1 ", Affinity("w1", Mode.STRICT_RESUME)),
        ("w1 w2", Affinity("w1 w2", Mode.SOFT)),
        ("STRICT w1", Affinity("STRICT w1", Mode.SOFT)),
    ],
)
def test_the_header_says_how_much_a_request_depends_on_its_worker(
    header: str | None, affinity: Affinity | None
) -> None:
    assert parse_affinity(header) == affinity


@pytest.mark.parametrize("header", ["strict", "strict-resume", "strict w1 w2"])
def test_strict_without_one_id_is_refused(header: str) -> None:
    with pytest.raises(BadRequest, match=WORKER_HEADER):
        parse_affinity(header)


@pytest.mark.parametrize(
    ("status", "before", "after"),
    [
        (200, State.INITIALIZING, State.IDLE),
        (200, State.UNHEALTHY, State.IDLE),
        (204, State.INITIALIZING, State.INITIALIZING),
        (204, State.IDLE, State.INITIALIZING),
        (503, State.INITIALIZING, State.UNHEALTHY),
        (404, State.IDLE, State.UNHEALTHY),
        (301, State.IDLE, State.UNHEALTHY),
        (None, State.IDLE, State.UNHEALTHY),
        (None, State.INITIALIZING, State.INITIALIZING),
        (200, State.STOPPED, State.STOPPED),
    ],
)
def test_a_health_check_changes_the_state(status: int | None, before: State, after: State) -> None:
    bench = Balanced()
    worker = bench.registry.start("w1")
    if before is not State.INITIALIZING:
        bench.registry.restore(worker)
    if before is State.UNHEALTHY:
        bench.registry.make_unhealthy(worker)
    if before is State.STOPPED:
        bench.registry.end(worker, 0)
    apply(verdict(status), worker, bench.registry)
    assert worker.state is after


def test_an_unhealthy_worker_that_was_ready_has_time_to_recover_and_one_that_never_was_has_none() -> None:
    bench = Balanced("w1", unhealthy_seconds=480)
    worker, never = bench.registry.workers["w1"], bench.registry.start("w2")
    for one in (worker, never):
        bench.registry.make_unhealthy(one)
    assert (bench.registry.is_given_up(worker), bench.registry.is_given_up(never)) == (False, True)
    bench.clock.pass_(480)
    assert bench.registry.is_given_up(worker)
    apply(Verdict.HEALTHY, worker, bench.registry)
    assert not bench.registry.is_given_up(worker)


async def test_requests_go_to_the_least_loaded_worker_and_wait_when_all_are_full() -> None:
    bench = Balanced("w1", "w2")
    got = [(await bench.pool.acquire(None)).id for _ in range(4)]
    assert sorted(got[:2]) == sorted(got[2:]) == ["w1", "w2"]
    waiting = asyncio.create_task(bench.pool.acquire(None))
    await asyncio.sleep(0)
    assert (bench.endpoint.requests.waiting, bench.endpoint.requests.in_progress) == (1, 4)
    assert (bench.endpoint.load().queued, bench.endpoint.load().in_progress) == (1, 4)
    bench.pool.release(bench.registry.workers["w2"])
    assert (await waiting).id == "w2"
    for worker in ("w1", "w1", "w2", "w2"):
        bench.pool.release(bench.registry.workers[worker])
    assert {worker.state for worker in bench.registry.workers.values()} == {State.IDLE}
    assert bench.endpoint.requests.in_progress == 0


async def test_requests_that_wait_are_served_in_their_order() -> None:
    bench = Balanced("w1", per_worker=1)
    worker = await bench.pool.acquire(None)
    order: list[int] = []

    async def request(number: int) -> None:
        held = await bench.pool.acquire(None)
        order.append(number)
        bench.pool.release(held)

    requests = [asyncio.create_task(request(number)) for number in range(5)]
    await asyncio.sleep(0)
    bench.pool.release(worker)
    await asyncio.gather(*requests)
    assert order == [0, 1, 2, 3, 4]


async def test_a_soft_request_gets_its_worker_and_another_one_when_it_cannot() -> None:
    bench = Balanced("w1", "w2")
    soft = Affinity("w2", Mode.SOFT)
    assert [(await bench.pool.acquire(soft)).id for _ in range(3)] == ["w2", "w2", "w1"], "full: another one"
    assert (await bench.pool.acquire(Affinity("nobody", Mode.SOFT))).id == "w1"
    bench.pool.release(bench.registry.workers["w2"])
    bench.pool.release(bench.registry.workers["w1"])
    bench.registry.make_unhealthy(bench.registry.workers["w2"])
    assert (await bench.pool.acquire(soft)).id == "w1"


async def test_a_strict_request_waits_for_its_worker_though_another_one_is_free() -> None:
    bench = Balanced("w1", "w2", per_worker=1)
    await bench.pool.acquire(Affinity("w1", Mode.STRICT))
    pinned = asyncio.create_task(bench.pool.acquire(Affinity("w1", Mode.STRICT)))
    await asyncio.sleep(0)
    assert not pinned.done()
    assert (await bench.pool.acquire(None)).id == "w2", "others go past it"
    bench.pool.release(bench.registry.workers["w1"])
    assert (await pinned).id == "w1"


@pytest.mark.parametrize("mode", [Mode.STRICT, Mode.STRICT_RESUME])
async def test_a_pinned_request_fails_when_its_worker_is_gone_or_not_free_in_time(mode: Mode) -> None:
    bench = Balanced("w1", per_worker=1, **SHORT)
    with pytest.raises(AffinityWorkerGone):
        await bench.pool.acquire(Affinity("nobody", mode))
    await bench.pool.acquire(None)
    with pytest.raises(WorkerTimeout) as late:
        await bench.pool.acquire(Affinity("w1", mode))
    assert (late.value.status, late.value.code) == (400, "worker_timeout")
    waiting = asyncio.create_task(bench.pool.acquire(Affinity("w1", mode)))
    await asyncio.sleep(0)
    bench.registry.end(bench.registry.workers["w1"], 1)
    bench.pool.assign()
    with pytest.raises(AffinityWorkerGone) as gone:
        await waiting
    assert (gone.value.status, gone.value.code) == (404, "affinity_worker_gone")


async def test_only_strict_resume_starts_a_worker_again_and_waits_until_it_is_ready() -> None:
    bench = Balanced("w1")
    bench.registry.end(bench.registry.workers["w1"], 0)
    bench.may_resume = True
    with pytest.raises(AffinityWorkerGone):
        await bench.pool.acquire(Affinity("w1", Mode.STRICT))
    assert bench.resumed == []
    resuming = asyncio.create_task(bench.pool.acquire(Affinity("w1", Mode.STRICT_RESUME)))
    await asyncio.sleep(0)
    assert bench.resumed == ["w1"]
    again = bench.ready("w1")
    bench.pool.assign()
    assert await resuming is again


async def test_a_request_fails_when_no_worker_is_free_in_time() -> None:
    bench = Balanced(**SHORT)
    with pytest.raises(NoWorker, match="no workers available"):
        await bench.pool.acquire(None)
    assert bench.endpoint.requests.waiting == 0


async def test_a_client_that_leaves_while_it_waits_takes_no_worker() -> None:
    bench = Balanced("w1", per_worker=1)
    worker = await bench.pool.acquire(None)
    gone, stays = (asyncio.create_task(bench.pool.acquire(None)) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    bench.pool.release(worker)
    assert await stays is worker
    assert worker.jobs == 1


async def test_a_client_that_leaves_just_when_it_gets_a_worker_gives_it_back() -> None:
    bench = Balanced("w1", per_worker=1)
    worker = await bench.pool.acquire(None)
    gone = asyncio.create_task(bench.pool.acquire(None))
    await asyncio.sleep(0)
    bench.pool.release(worker)  # it is granted, and its task has not run since
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert worker.jobs == 0


async def test_closing_refuses_what_waits() -> None:
    bench = Balanced()
    waiting = asyncio.create_task(bench.pool.acquire(None))
    await asyncio.sleep(0)
    bench.pool.close()
    with pytest.raises(ApiError, match="stopped"):
        await waiting


def test_a_load_balancer_scales_by_its_requests() -> None:
    with pytest.raises(ValueError, match="request_count"):
        EndpointSettings(type="load_balancer")
