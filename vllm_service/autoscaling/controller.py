"""Scales the per-second endpoints beside the requests: shows RunPod's workers to the router, and acts on its targets.

Looking never wakes. An endpoint that cannot be seen is not woken either: the router would send nothing to its workers.
Scale-down needs no order: the router sends no more than its target can take, and RunPod's idle timeout does the rest.
An idle worker that is to be kept gets a warm-up job now and then: RunPod's idle timeout would end it sooner, and the
next request would pay for a cold start. Should the gateway die, the timeout still holds.
Where the configuration says so, an endpoint's workersMin follows the router instead of all this: workers_min.py.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol

from vllm_service.autoscaling import pin_sight
from vllm_service.autoscaling.bounds_watch import BoundsWatch
from vllm_service.autoscaling.endpoint_look import EndpointLook, WorkerLives
from vllm_service.autoscaling.endpoint_state import EndpointState, document_of, is_to_be_kept, is_to_be_woken
from vllm_service.autoscaling.wake_lease import WakeOutcome, WakeSettings, wake_once
from vllm_service.autoscaling.wake_progress import WakeEvent
from vllm_service.autoscaling.worker_room import WorkerRoom
from vllm_service.autoscaling.workers_min import Bounds, Coordination, FollowSettings, WorkersMinFollower
from vllm_service.catalog.model import Catalog, Provider, ProviderKind
from vllm_service.domain.plan import Router, WorkerTarget
from vllm_service.domain.status import WorkersState
from vllm_service.logs import source_location
from vllm_service.routing.profiles import EndpointProfile
from vllm_service.routing.worker_pins import WorkerPins
from vllm_service.runpod.balanced_endpoint import BalancedEndpoint
from vllm_service.runpod.endpoint import RunPodEndpoint, RunPodSettings, SendHttp
from vllm_service.runpod.health import EndpointHealth
from vllm_service.runpod.management import RunPodManagement
from vllm_service.runpod.rate_limits import RateLimits
from vllm_service.runpod.worker_list import WorkerLists
from vllm_service.storage.coordination.protocol import Targets, Wakes

#: How often targets are read; `/health` itself is read at RunPodSettings' interval.
ROUND_SECONDS = 1.0
_log = logging.getLogger(__name__)


class RequestLimits(Protocol):
    """The part of http.pool.ConnectionPool that the controller needs."""

    def taken(self, provider: str) -> int:
        """Returns how many requests to this provider are under way."""
        ...

    def limit(self, provider: str, requests: int) -> None:
        """Sets how many may be."""
        ...


class EndpointController:
    """Runs `round` once a second; what takes longer goes on beside it, at most one task per endpoint and purpose.

    With wakes None no worker is woken. With targets None workers are woken by jobs, whatever the configuration says,
    because workersMin could be left high when this process ends. replicas: how many processes look at the endpoints
    with the same keys; None, unknown: workers are counted and not listed, because lists could use up a key's rate
    limit. wall_clock: seconds since 1970.
    """

    def __init__(
        self,
        send: SendHttp,
        wakes: Wakes | None,
        settings: RunPodSettings | None = None,
        wake_settings: WakeSettings | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        targets: Targets | None = None,
        follow_settings: FollowSettings | None = None,
        requests: RequestLimits | None = None,
        rest_limits: RateLimits | None = None,
        replicas: int | None = None,
        lives: WorkerLives | None = None,
        pins: WorkerPins | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._send = send
        self._rest_limits = rest_limits or RateLimits()
        self._lives = lives
        self._pins = pins
        self._wall_clock = wall_clock
        self._requests = requests
        self._follow_settings = follow_settings
        self._coordination = (
            None if wakes is None or targets is None else Coordination(secrets.token_hex(8), wakes, targets)
        )
        self._wakes = wakes
        self._settings = settings = settings or RunPodSettings()
        self._lists = WorkerLists(
            send, self._rest_limits, replicas, clock, least_seconds=settings.health_interval_seconds
        )
        self._wake_settings = wake_settings or WakeSettings()
        self._clock = clock
        #: By the provider's name.
        self._endpoints: dict[str, EndpointState] = {}
        self._catalog: Catalog | None = None
        #: The tasks that go on beside the rounds, by endpoint, and by endpoint and purpose.
        self._under_way: dict[str, asyncio.Task[None]] = {}
        #: Followers of endpoints that a reload dropped, while they set workersMin back.
        self._leaving: set[asyncio.Task[None]] = set()

    async def run(self, configured: Callable[[], tuple[Catalog, Router]]) -> None:
        """Runs rounds until it is cancelled."""
        try:
            while True:
                self.round(*configured())
                await asyncio.sleep(ROUND_SECONDS)
        finally:
            self.stop()

    def stop(self) -> None:
        """Cancels what is under way."""
        for task in self._under_way.values():
            task.cancel()

    async def leave(self) -> None:
        """Sets workersMin of every followed endpoint back, within some seconds; to be called when `run` has ended."""
        # redis-py may lose a cancellation, and a follower that goes on would set workersMin once more: cancel again.
        for _ in range(4):
            if self._under_way:
                self.stop()
                await asyncio.wait(list(self._under_way.values()), timeout=0.5)
        followers = [state.follower for state in self._endpoints.values() if state.follower is not None]
        works = (*(follower.leave() for follower in followers), *self._leaving)
        for result in await asyncio.gather(*works, return_exceptions=True):
            if isinstance(result, Exception):
                _log.error(
                    "workersMin of an endpoint may be left as it is, and its workers paid: check it at RunPod (%s)",
                    source_location(result),
                )

    def round(self, catalog: Catalog, router: Router) -> None:
        """Begins to look at each endpoint, and to bring its workers to the target, unless that is under way."""
        if catalog is not self._catalog:
            self._adopt(catalog)
        for name, state in self._endpoints.items():
            if state.bounds is not None:
                self._begin(f"the worker bounds of {name}", state.bounds.look)
                router.observe_most_workers(name, state.bounds.most)
        targets = {target.provider: target for target in router.worker_targets(self._clock())}
        for name, state in self._endpoints.items():
            target = targets.get(name)
            state.estimated_usd = None if target is None else target.estimated_usd
            self._begin(name, partial(self._observe, name, state, router, target))
            if target is not None and (follower := state.follower) is not None and state.knows_bounds:
                is_seen = state.health is not None
                follow = partial(follower.follow, target.workers, target.reason, is_seen=is_seen)
                self._begin(_follow_task(name), follow)

    async def idle(self) -> None:
        """Returns when nothing that was begun is under way."""
        while self._under_way:
            await asyncio.wait(list(self._under_way.values()))

    def status(self) -> WorkersState:
        """Returns the workers as last seen, for health and metrics; without the endpoints that were not seen."""
        seen = {name: state.worker_state() for name, state in self._endpoints.items()}
        return WorkersState({name: worker for name, worker in seen.items() if worker is not None})

    def _begin(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Starts a task of this name, unless one is under way."""
        if name not in self._under_way:
            # The dict also keeps the task alive: the event loop holds only weak references.
            task = self._under_way[name] = asyncio.create_task(work())
            task.add_done_callback(partial(self._ended, name))

    def _adopt(self, catalog: Catalog) -> None:
        """Takes a configuration that was read again; what is known of an endpoint that stays is kept."""
        self._catalog = catalog
        before = self._endpoints
        self._endpoints = {}
        for name, provider in catalog.providers.items():
            model = _model_at(catalog, name)
            if provider.kind is ProviderKind.RUNPOD and provider.control_url is not None and model is not None:
                self._endpoints[name] = self._new(provider, model)
                if name in before:
                    self._endpoints[name].take_over(before[name])
        self._lists.share(catalog.providers[name] for name in self._endpoints)
        for name, old in before.items():
            new = self._endpoints.get(name)
            if old.follower is not None and (new is None or new.managed_url != old.managed_url):
                self._leave(name, old.follower)

    def _leave(self, name: str, follower: WorkersMinFollower) -> None:
        if (task := self._under_way.get(_follow_task(name))) is not None:
            task.cancel()
        leaving = asyncio.create_task(follower.leave())
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    def _new(self, provider: Provider, model: str) -> EndpointState:
        expected = dict(provider.expected)
        default = EndpointProfile()
        idle_seconds = expected.get("idle_timeout_seconds", default.idle_timeout_seconds)
        kind = BalancedEndpoint if provider.is_balanced else RunPodEndpoint
        endpoint = kind(provider, self._send, self._clock, self._settings)
        look = EndpointLook(provider, endpoint, self._lists.of(provider), self._lives, self._wall_clock)
        follower = None
        management, workers_min = provider.management, provider.workers_min
        if management is not None and workers_min is not None and self._coordination is not None:
            bounds = Bounds(int(expected.get("max_workers", default.max_workers)), workers_min.base)
            managed = RunPodManagement(provider, management, self._send, limits=self._rest_limits, clock=self._clock)
            follower = WorkersMinFollower(managed, bounds, self._coordination, self._clock, self._follow_settings)
        watch = None
        if management is not None:
            watch = BoundsWatch(provider, management, self._send, limits=self._rest_limits, clock=self._clock)
        return EndpointState(endpoint, look, model, idle_seconds / 2, follower, WorkerRoom.of(provider), watch)

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        self._under_way.pop(name, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("%s could not be observed or scaled: %s", name, source_location(error))

    async def _observe(self, name: str, state: EndpointState, router: Router, target: WorkerTarget | None) -> None:
        """Looks at the endpoint, then wakes or keeps a worker: an older look may be wrong, and a wake costs."""
        state.seen = await state.look.look()
        health = state.health
        document = None if health is None else document_of(health)
        router.observe_health(name, document, self._clock(), state.seen.listed)
        if state.bounds is not None:
            # It was made before the look: what may be ordered may have become known since.
            target = None if target is None else state.bounds.allowed(target)
            if health is not None:
                is_seen = bool(health.workers_warm or health.workers_initializing)
                state.bounds.observe(is_wanted=target is not None and target.workers > 0, is_seen=is_seen)
        self._make_room(name, state)
        if self._pins is not None and isinstance(state.endpoint, BalancedEndpoint):
            pin_sight.tell(self._pins, name, state, target, self._clock())
        if self._wakes is None or state.follower is not None:
            return
        if health is not None:
            await self._follow_up(name, state, health, 0 if target is None else target.workers, self._wakes)
        if target is not None and is_to_be_woken(target, health):
            await self._wake(state, target, self._wakes)
        elif target is not None and is_to_be_kept(target, health):
            await self._keep(state, target, self._wakes)

    def _make_room(self, name: str, state: EndpointState) -> None:
        """Limits the requests that are sent there at once to what its workers hold, as far as both are known."""
        if state.room is None or state.health is None or self._requests is None:
            return
        most = state.room.requests(state.health, self._requests.taken(name))
        if most is not None:
            self._requests.limit(name, most)

    async def _follow_up(
        self, name: str, state: EndpointState, health: EndpointHealth, wanted: int, wakes: Wakes
    ) -> None:
        """Cancels the job and shortens the lease as this replica's wake goes on, if it has sent one."""
        warm, starting = health.workers_warm or 0, health.workers_initializing or 0
        event = state.wake.observe(warm, starting, wanted, health.workers_throttled or 0)
        if event is WakeEvent.IS_READY:
            # Not at once: another replica may not have looked since, and would wake it again.
            await wakes.shorten(name, 2 * self._settings.health_interval_seconds)
        elif event is not WakeEvent.NONE:
            if event is not WakeEvent.IS_GONE and (job_id := state.wake.take_job()) is not None:
                await state.endpoint.cancel(job_id)
            if event is not WakeEvent.ENOUGH_START:
                settings = self._wake_settings
                pause = settings.retry_seconds * 2.0 ** min(state.wake.failures, 20)
                await wakes.shorten(name, min(pause, settings.lease_seconds))

    async def _wake(self, state: EndpointState, target: WorkerTarget, wakes: Wakes) -> None:
        name = target.provider
        outcome, detail = await wake_once(name, state.model, state.endpoint, wakes, self._wake_settings)
        if outcome is WakeOutcome.STARTED:
            state.wake.began(detail or "")
            _log.info("%s is being woken: %s", name, target.reason)
        elif outcome is WakeOutcome.FAILED:
            _log.warning("%s could not be woken: %s", name, detail)

    async def _keep(self, state: EndpointState, target: WorkerTarget, wakes: Wakes) -> None:
        # A lease of its own, as long as one job keeps the worker: all replicas together send one job per span.
        kept = WakeSettings(lease_seconds=state.kept_seconds, retry_seconds=state.kept_seconds)
        lease = f"{target.provider}/kept"
        outcome, detail = await wake_once(lease, state.model, state.endpoint, wakes, kept)
        if outcome is WakeOutcome.FAILED:
            _log.warning("the worker of %s could not be kept: %s", target.provider, detail)


def _follow_task(name: str) -> str:
    return f"workersMin of {name}"


def _model_at(catalog: Catalog, provider: str) -> str | None:
    offers = (offer for model in catalog.models.values() for offer in model.offers)
    return next((offer.model for offer in offers if offer.provider == provider), None)
