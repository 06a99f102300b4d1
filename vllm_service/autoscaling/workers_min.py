"""Lets an endpoint's workersMin follow the router, up and down: one number and one setter of all replicas.

workersMin is paid until somebody lowers it. So it is looked at again now and then, also when nothing is to be changed:
an order that was taken for lost may have arrived late. Workers of an endpoint that cannot be seen are not asked for,
and kept for a while only. The last replica that stops sets it back, and the first that starts what a killed one left.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from vllm_service.errors import UpstreamFailed
from vllm_service.storage.coordination.protocol import Targets, Wakes

_log = logging.getLogger(__name__)


class Manageable(Protocol):
    """An endpoint whose workersMin can be set (runpod/management.py). url: by which it is known."""

    name: str
    url: str

    async def ensure(self, workers: int) -> bool:
        """Whether it had to be changed. Raises UpstreamFailed."""
        ...


@dataclass(frozen=True, kw_only=True)
class FollowSettings:
    """Seconds. word: how long a replica's number counts. lease: the longest that setting may take. pace: between two
    changes. retry: after a failure, doubled up to longest_retry. look: between two looks when all is as it should be.
    unseen: how long workers of an endpoint that cannot be seen are kept. leave: the longest that setting it back takes.
    """

    word_seconds: float = 10.0
    lease_seconds: float = 20.0
    pace_seconds: float = 5.0
    retry_seconds: float = 5.0
    longest_retry_seconds: float = 60.0
    look_seconds: float = 60.0
    unseen_seconds: float = 30.0
    leave_seconds: float = 8.0
    leave_retry_seconds: float = 0.5


@dataclass(frozen=True, slots=True)
class Bounds:
    """most: workers that the endpoint may have. base: what workersMin is set back to."""

    most: int
    base: int = 0


@dataclass(frozen=True, slots=True)
class Together:
    """By what this replica agrees with the others, and its name among them."""

    replica: str
    wakes: Wakes
    targets: Targets


class WorkersMinFollower:
    """One endpoint. clock: seconds, monotonic. known: workersMin as last set or found; None: not yet."""

    def __init__(
        self,
        managed: Manageable,
        bounds: Bounds,
        together: Together,
        clock: Callable[[], float],
        settings: FollowSettings | None = None,
    ) -> None:
        self.url = managed.url
        self.known: int | None = None
        self._name, self._lease = managed.name, f"{managed.name}/workersMin"
        self._managed = managed
        self._bounds = bounds
        self._together = together
        self._clock = clock
        self._settings = settings or FollowSettings()
        self._seen_at = self._looked_at = -math.inf
        self._failures = 0
        self._refused: int | None = None  # what the last order asked for, if it failed

    def take_over(self, before: WorkersMinFollower) -> None:
        """The same endpoint in a configuration that was read again: what is known of it."""
        self.known, self._seen_at, self._looked_at = before.known, before._seen_at, before._looked_at

    async def follow(self, target: int, reason: str, *, is_seen: bool) -> None:
        """To be called about once a second. is_seen: whether the last look at its workers told something."""
        together, settings = self._together, self._settings
        own = self._within_sight(target, is_seen=is_seen)
        highest = await together.targets.publish(self._name, together.replica, own, settings.word_seconds)
        wanted = min(highest, self._bounds.most)
        now = self._clock()
        is_well = wanted == self.known and 0 <= now - self._looked_at < settings.look_seconds
        if wanted < (self._refused or 0):  # to lower it, nobody waits for the pause of an order to raise it
            await together.wakes.shorten(self._lease, settings.pace_seconds)
        if not is_well and await together.wakes.claim(self._lease, settings.lease_seconds):
            await self._set(wanted, reason)

    async def leave(self) -> None:
        """This replica stops, or looks after the endpoint no longer. Returns in time; logs what it could not do."""
        together, base, why = self._together, min(self._bounds.base, self._bounds.most), "no answer"
        try:
            async with asyncio.timeout(self._settings.leave_seconds):
                if await together.targets.withdraw(self._name, together.replica) is not None:
                    return
                while (failure := await self._tried(base)) is not None:
                    why = failure
                    await asyncio.sleep(self._settings.leave_retry_seconds)
        except TimeoutError:
            _log.error(
                "workersMin of %s could not be set back to %d, and its workers are paid until it is: %s. "
                "Set it by hand; docs/operations.md says how",
                *(self._name, base, why),
            )
        await together.wakes.clear(self._lease)

    def _within_sight(self, target: int, *, is_seen: bool) -> int:
        now = self._clock()
        if is_seen:
            self._seen_at = now
            return target
        return min(target, self.known or 0) if 0 <= now - self._seen_at < self._settings.unseen_seconds else 0

    async def _set(self, workers: int, reason: str) -> None:
        """By who has the lease. Others may change it again when the pace allows."""
        wakes, settings = self._together.wakes, self._settings
        try:
            was_changed = await self._managed.ensure(workers)
        except UpstreamFailed as error:
            pause = min(settings.retry_seconds * 2.0 ** min(self._failures, 20), settings.longest_retry_seconds)
            self.known, self._refused = None, workers
            self._failures += 1
            _log.warning("%s; it is tried again in %.0f s", error.message, pause)
            await wakes.shorten(self._lease, pause)
            return
        self.known, self._looked_at, self._failures, self._refused = workers, self._clock(), 0, None
        if was_changed:
            _log.info("workersMin of %s is %d now: %s", self._name, workers, reason)
            await wakes.shorten(self._lease, settings.pace_seconds)
        else:
            await wakes.clear(self._lease)

    async def _tried(self, workers: int) -> str | None:
        """Why it failed, if it did."""
        try:
            await self._managed.ensure(workers)
        except UpstreamFailed as error:
            return error.message
        self.known = workers
        return None
