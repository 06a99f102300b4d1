"""Looks after the per-second endpoints beside the requests: tells the router what RunPod says, wakes what it wants.

Looking never wakes. An endpoint that cannot be seen is not woken either: nobody would send requests to what it wakes.
Scale-down needs no order: the router sends no more than its target can take, and RunPod's idle time-out does the rest.
A worker that the router wants kept although it idles gets a warm-up job now and then: RunPod's time-out would end it
sooner, and the next request would pay for a cold start. Should the gateway die, the time-out still holds.
Where the configuration says so, an endpoint's workersMin follows the router instead of all this: workers_min.py.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from vllm_service.autoscaling.endpoint_state import EndpointState, document_of, is_to_be_kept, is_to_be_woken
from vllm_service.autoscaling.wake_lease import WakeOutcome, WakeSettings, wake_once
from vllm_service.autoscaling.wake_progress import Turn
from vllm_service.autoscaling.workers_min import Bounds, FollowSettings, Together, WorkersMinFollower
from vllm_service.catalog.model import Catalog, Provider, ProviderKind
from vllm_service.domain.plan import Router, WorkerTarget
from vllm_service.domain.status import WorkersState
from vllm_service.logs import source_location
from vllm_service.routing.profiles import EndpointProfile
from vllm_service.runpod.endpoint import RunPodEndpoint, RunPodSettings, SendHttp
from vllm_service.runpod.health import EndpointHealth
from vllm_service.runpod.management import RunPodManagement
from vllm_service.storage.coordination.protocol import Targets, Wakes

ROUND_SECONDS = 1.0
_log = logging.getLogger(__name__)


class EndpointController:
    """`round` once a second; what takes longer goes on beside it, once per endpoint. wakes None: wakes nobody.

    targets None: workers are woken by jobs, whatever the configuration says: nobody would lower workersMin later.
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
    ) -> None:
        self._send = send
        self._follow_settings = follow_settings
        self._together = None if wakes is None or targets is None else Together(secrets.token_hex(8), wakes, targets)
        self._wakes = wakes
        self._settings = settings or RunPodSettings()
        self._wake_settings = wake_settings or WakeSettings()
        self._clock = clock
        self._tended: dict[str, EndpointState] = {}
        self._catalog: Catalog | None = None
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    async def run(self, configured: Callable[[], tuple[Catalog, Router]]) -> None:
        """Until it is cancelled."""
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
        """When `run` has ended: what is paid until somebody lowers it is set back, within some seconds."""
        for _ in range(4):  # redis-py may lose a cancellation; who goes on would set it once more
            if self._under_way:
                self.stop()
                await asyncio.wait(list(self._under_way.values()), timeout=0.5)
        followers = [tended.follower for tended in self._tended.values() if tended.follower is not None]
        works = (*(follower.leave() for follower in followers), *self._leaving)
        for result in await asyncio.gather(*works, return_exceptions=True):
            if isinstance(result, Exception):
                _log.error("workersMin of an endpoint may be left as it is: %s", source_location(result))

    def round(self, catalog: Catalog, router: Router) -> None:
        """Begins a look at each endpoint, unless one is under way, and then the wake that the router wants."""
        if catalog is not self._catalog:
            self._adopt(catalog)
        targets = {target.provider: target for target in router.worker_targets(self._clock())}
        for name, tended in self._tended.items():
            target = targets.get(name)
            self._begin(name, partial(self._tend, name, tended, router, target))
            if target is not None and (follower := tended.follower) is not None:
                is_seen = tended.health is not None
                follow = partial(follower.follow, target.workers, target.reason, is_seen=is_seen)
                self._begin(_followed(name), follow)

    async def idle(self) -> None:
        """Returns when nothing that was begun is under way."""
        while self._under_way:
            await asyncio.wait(list(self._under_way.values()))

    def status(self) -> WorkersState:
        """Returns the workers as last seen; without the endpoints that were not seen."""
        return WorkersState(
            {name: state for name, tended in self._tended.items() if (state := tended.state()) is not None}
        )

    def _begin(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Unless it is under way."""
        if name not in self._under_way:
            task = self._under_way[name] = asyncio.create_task(work())
            task.add_done_callback(partial(self._ended, name))

    def _adopt(self, catalog: Catalog) -> None:
        """A configuration that was read again: what is known of an endpoint that stays is kept."""
        self._catalog = catalog
        before, self._tended = self._tended, {}
        for name, provider in catalog.providers.items():
            model = _model_at(catalog, name)
            if provider.kind is ProviderKind.RUNPOD and provider.control_url is not None and model is not None:
                self._tended[name] = self._new(provider, model)
                if name in before:
                    self._tended[name].take_over(before[name])
        for name, gone in before.items():
            if gone.follower is not None and (name not in self._tended or self._tended[name].manages != gone.manages):
                self._leave(name, gone.follower)

    def _leave(self, name: str, follower: WorkersMinFollower) -> None:
        if (task := self._under_way.get(_followed(name))) is not None:
            task.cancel()
        leaving = asyncio.create_task(follower.leave())
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    def _new(self, provider: Provider, model: str) -> EndpointState:
        expected, default = dict(provider.expected), EndpointProfile()
        idle_seconds = expected.get("idle_timeout_seconds", default.idle_timeout_seconds)
        endpoint = RunPodEndpoint(provider, self._send, self._clock, self._settings)
        follower = None
        if provider.workers_min is not None and self._together is not None:
            bounds = Bounds(int(expected.get("max_workers", default.max_workers)), provider.workers_min.base)
            managed = RunPodManagement(provider, provider.workers_min, self._send)
            follower = WorkersMinFollower(managed, bounds, self._together, self._clock, self._follow_settings)
        return EndpointState(endpoint, model, idle_seconds / 2, follower)

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        self._under_way.pop(name, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("%s could not be looked after: %s", name, source_location(error))

    async def _tend(self, name: str, tended: EndpointState, router: Router, target: WorkerTarget | None) -> None:
        """First looks: what was seen before may no longer be so, and a wake costs money."""
        tended.health = health = await tended.endpoint.health()
        router.observe_health(name, None if health is None else document_of(health), self._clock())
        if self._wakes is None or tended.follower is not None:
            return
        if health is not None:
            await self._follow_up(name, tended, health, 0 if target is None else target.workers, self._wakes)
        if target is not None and is_to_be_woken(target, health):
            await self._wake(tended, target, self._wakes)
        elif target is not None and is_to_be_kept(target, health):
            await self._keep(tended, target, self._wakes)

    async def _follow_up(
        self, name: str, tended: EndpointState, health: EndpointHealth, wanted: int, wakes: Wakes
    ) -> None:
        """What came of the wake, if this replica has sent one."""
        turn = tended.wake.saw(health.workers_warm or 0, health.workers_initializing or 0, wanted)
        if turn is Turn.IS_READY:
            # Not at once: another replica may not have looked since.
            await wakes.shorten(name, 2 * self._settings.health_interval_seconds)
        elif turn is not Turn.NONE:
            if turn is not Turn.IS_GONE and (job_id := tended.wake.take_job()) is not None:
                await tended.endpoint.cancel(job_id)
            if turn is not Turn.ENOUGH_START:
                settings = self._wake_settings
                pause = settings.retry_seconds * 2.0 ** min(tended.wake.failures, 20)
                await wakes.shorten(name, min(pause, settings.lease_seconds))

    async def _wake(self, tended: EndpointState, target: WorkerTarget, wakes: Wakes) -> None:
        name = target.provider
        came_of_it, why = await wake_once(name, tended.model, tended.endpoint, wakes, self._wake_settings)
        if came_of_it is WakeOutcome.STARTED:
            tended.wake.began(why or "")
            _log.info("%s is being woken: %s", name, target.reason)
        elif came_of_it is WakeOutcome.FAILED:
            _log.warning("%s could not be woken: %s", name, why)

    async def _keep(self, tended: EndpointState, target: WorkerTarget, wakes: Wakes) -> None:
        kept = WakeSettings(lease_seconds=tended.kept_seconds, retry_seconds=tended.kept_seconds)
        lease = f"{target.provider}/kept"
        came_of_it, why = await wake_once(lease, tended.model, tended.endpoint, wakes, kept)
        if came_of_it is WakeOutcome.FAILED:
            _log.warning("the worker of %s could not be kept: %s", target.provider, why)


def _followed(name: str) -> str:
    return f"workersMin of {name}"


def _model_at(catalog: Catalog, provider: str) -> str | None:
    offers = (offer for model in catalog.models.values() for offer in model.offers)
    return next((offer.model for offer in offers if offer.provider == provider), None)
