"""Lets an endpoint's workersMin follow the router, up and down: one number and one setter of all replicas.

workersMin is paid until it is lowered. So it is read again now and then, also when nothing is to be changed: an order
that was taken for lost may have arrived late. An endpoint that cannot be seen gets no more workers, and keeps those it
has for a while only. The last replica that stops sets it back, and the first that starts lowers what a killed one left.
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
    """An endpoint whose workersMin can be set (runpod/management.py)."""

    #: The provider's name.
    name: str
    #: The address in the management API, by which endpoints differ.
    url: str

    async def ensure(self, workers: int) -> bool:
        """Sets workersMin and returns whether it had to be changed. Raises UpstreamFailed."""
        ...


@dataclass(frozen=True, kw_only=True)
class FollowSettings:
    """The times of one endpoint's workersMin."""

    #: How long a replica's target counts after it was published, so that a killed replica's ends.
    target_seconds: float = 10.0
    #: The longest that one change may take: three requests of management.TIMEOUT_SECONDS fit.
    lease_seconds: float = 20.0
    #: Between two changes of one endpoint, over all replicas.
    pace_seconds: float = 5.0
    #: The pause after a failure, doubled with each one in a row.
    retry_seconds: float = 5.0
    longest_retry_seconds: float = 60.0
    #: How often workersMin is read when all is as it should be.
    look_seconds: float = 60.0
    #: How long workers of an endpoint that cannot be seen are kept.
    unseen_seconds: float = 30.0
    #: The longest that a stopping replica takes to set workersMin back.
    leave_seconds: float = 8.0
    leave_retry_seconds: float = 0.5


@dataclass(frozen=True, slots=True)
class Bounds:
    """Between what workersMin is set."""

    #: Workers that the endpoint may have.
    most: int
    #: What workersMin is set back to.
    base: int = 0


@dataclass(frozen=True, slots=True)
class Coordination:
    """How this replica agrees with the others on one target and one setter."""

    #: This replica's name among them.
    replica: str
    #: Leases: the holder of an endpoint's lease sets its workersMin.
    wakes: Wakes
    #: The replicas' targets, of which the highest counts.
    targets: Targets


class WorkersMinFollower:
    """Lets one endpoint's workersMin follow the router's target."""

    def __init__(
        self,
        managed: Manageable,
        bounds: Bounds,
        coordination: Coordination,
        clock: Callable[[], float],
        settings: FollowSettings | None = None,
    ) -> None:
        self.url = managed.url
        #: workersMin as last set or found; None: not yet, or the last order failed.
        self.known: int | None = None
        self._name = managed.name
        self._lease = f"{managed.name}/workersMin"
        self._managed = managed
        self._bounds = bounds
        self._coordination = coordination
        self._clock = clock  # seconds, monotonic
        self._settings = settings or FollowSettings()
        #: When the endpoint's workers were last seen.
        self._seen_at = -math.inf
        #: When workersMin was last set or read.
        self._looked_at = -math.inf
        self._failures = 0
        #: What the last order was for, if it failed.
        self._refused: int | None = None

    def take_over(self, before: WorkersMinFollower) -> None:
        """Keeps what was known of the same endpoint before the configuration was read again."""
        self.known = before.known
        self._seen_at = before._seen_at
        self._looked_at = before._looked_at

    async def follow(self, target: int, reason: str, *, is_seen: bool) -> None:
        """Publishes this replica's target and sets workersMin to the highest of all; to be called about once a second.

        is_seen: whether the endpoint's workers were seen when they were last looked at.
        """
        coordination = self._coordination
        settings = self._settings
        own = self._own_target(target, is_seen=is_seen)
        highest = await coordination.targets.publish(self._name, coordination.replica, own, settings.target_seconds)
        wanted = min(highest, self._bounds.most)
        now = self._clock()
        is_well = wanted == self.known and 0 <= now - self._looked_at < settings.look_seconds
        if wanted < (self._refused or 0):
            # Lowering it saves money, so it does not wait out the longer pause after an order to raise it failed.
            await coordination.wakes.shorten(self._lease, settings.pace_seconds)
        if not is_well and await coordination.wakes.claim(self._lease, settings.lease_seconds):
            await self._set(wanted, reason)

    async def leave(self) -> None:
        """Withdraws this replica's target; the last one sets workersMin back. Logs what could not be done in time."""
        coordination = self._coordination
        base = min(self._bounds.base, self._bounds.most)
        why = "no answer"
        try:
            async with asyncio.timeout(self._settings.leave_seconds):
                if await coordination.targets.withdraw(self._name, coordination.replica) is not None:
                    return
                while (failure := await self._set_back(base)) is not None:
                    why = failure
                    await asyncio.sleep(self._settings.leave_retry_seconds)
        except TimeoutError:
            _log.error(
                "workersMin of %s could not be set back to %d, and its workers are paid until it is: %s. "
                "Set it by hand; docs/operations.md says how",
                *(self._name, base, why),
            )
        await coordination.wakes.clear(self._lease)

    def _own_target(self, target: int, *, is_seen: bool) -> int:
        """Returns the target, but for an endpoint that cannot be seen no more workers than there are, and soon none.

        The router would send nothing to workers that it cannot see.
        """
        now = self._clock()
        if is_seen:
            self._seen_at = now
            return target
        return min(target, self.known or 0) if 0 <= now - self._seen_at < self._settings.unseen_seconds else 0

    async def _set(self, workers: int, reason: str) -> None:
        """Sets workersMin while this replica holds the lease; the next change may come when the pace allows."""
        wakes = self._coordination.wakes
        settings = self._settings
        try:
            was_changed = await self._managed.ensure(workers)
        except UpstreamFailed as error:
            pause = min(settings.retry_seconds * 2.0 ** min(self._failures, 20), settings.longest_retry_seconds)
            self.known = None
            self._refused = workers
            self._failures += 1
            _log.warning("%s; the next try is in %.0f s", error.message, pause)
            await wakes.shorten(self._lease, pause)
            return
        self.known = workers
        self._looked_at = self._clock()
        self._failures = 0
        self._refused = None
        if was_changed:
            _log.info("workersMin of %s is %d now: %s", self._name, workers, reason)
            await wakes.shorten(self._lease, settings.pace_seconds)
        else:
            await wakes.clear(self._lease)

    async def _set_back(self, workers: int) -> str | None:
        """Sets workersMin once; returns why that failed, or None."""
        try:
            await self._managed.ensure(workers)
        except UpstreamFailed as error:
            return error.message
        self.known = workers
        return None
