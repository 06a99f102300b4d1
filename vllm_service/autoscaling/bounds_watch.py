"""Watches how many workers RunPod lets an endpoint have, so that nothing is hoped for from one that may have none.

RunPod lowers that number by itself after days without a request. It is read every few minutes, and soon after a wake
that led to nothing. A key that may not read the endpoint leaves it unknown, which changes nothing.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from vllm_service.catalog.model import Management, Provider
from vllm_service.domain.plan import WorkerTarget
from vllm_service.runpod.endpoint import SendHttp
from vllm_service.runpod.one_attempt_api import one_attempt_api
from vllm_service.runpod.rate_limits import RateLimits
from vllm_service.runpod.rest_errors import RestError
from vllm_service.runpod.worker_bounds import parse_bounds, scaled_down_reason

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WatchSettings:
    """The times between two looks at an endpoint's bounds."""

    look_seconds: float = 300.0
    #: While it may have no worker: requests wait for the number to be raised.
    none_seconds: float = 60.0
    #: After a worker was first wanted, until which one should have been seen.
    wake_seconds: float = 20.0
    timeout_seconds: float = 5.0


class BoundsWatch:
    """One endpoint's greatest number of workers, as last read. clock: monotonic seconds."""

    def __init__(
        self,
        provider: Provider,
        management: Management,
        send: SendHttp,
        *,
        limits: RateLimits,
        clock: Callable[[], float],
        settings: WatchSettings | None = None,
    ) -> None:
        self._settings = settings = settings or WatchSettings()
        self._name = provider.name
        self._management = management
        self._clock = clock
        self._api = one_attempt_api(
            provider, management, send, timeout_seconds=settings.timeout_seconds, limits=limits, clock=clock
        )
        configured = dict(provider.expected).get("max_workers")
        #: The most workers that it should be allowed: as configured, else the most that was ever read.
        self._wanted = None if configured is None else int(configured)
        self._is_configured = configured is not None
        #: The most workers that RunPod lets it have; None: not read yet, or it cannot be.
        self.most: int | None = None
        #: Why RunPod seems to have lowered it, and the remedy.
        self.scaled_down: str | None = None
        #: Whether it was tried once to read them. Until then, seconds at most, nothing is ordered.
        self.has_looked = False
        self._next_look_at = -math.inf
        #: When to look since what is seen of the workers is odd; inf: that was done; None: nothing is odd.
        self._odd_look_at: float | None = None
        self._is_refused = False

    def take_over(self, before: BoundsWatch) -> None:
        """Keeps what was known of the same endpoint before the configuration was read again."""
        if self._management != before._management:
            return
        self.most, self.scaled_down, self._is_refused = before.most, before.scaled_down, before._is_refused
        self.has_looked = before.has_looked
        self._next_look_at = before._next_look_at
        if not self._is_configured:
            self._wanted = before._wanted

    def observe(self, *, is_wanted: bool, is_seen: bool) -> None:
        """Takes whether a worker is wanted, and whether one runs or starts. To be called at each look at the workers.

        A worker that is wanted and does not come, or is there though none may be, is a reason to look once more.
        """
        if not (is_seen and self.most == 0) and not (is_wanted and not is_seen):
            self._odd_look_at = None
        elif self._odd_look_at is None:
            self._odd_look_at = self._clock() + self._settings.wake_seconds

    async def look(self) -> None:
        """Reads the bounds if it is time. Logs each change that somebody should know of, once."""
        now = self._clock()
        is_odd = self._odd_look_at is not None and now >= self._odd_look_at
        if now < self._next_look_at and not is_odd:
            return
        if is_odd:
            self._odd_look_at = math.inf
        self._next_look_at = now + self._pause_seconds()
        try:
            self._take(parse_bounds(await self._api.get(self._management.path)).most)
        except RestError as error:
            self._not_read(error)
        self.has_looked = True

    def allowed(self, target: WorkerTarget) -> WorkerTarget:
        """Returns the target with no more workers than may be ordered now."""
        most = self.most if self.has_looked else 0
        if most is None or target.workers <= most:
            return target
        return replace(target, workers=most, always_on=min(target.always_on, most))

    def _take(self, most: int | None) -> None:
        self._is_refused = False
        if not self._is_configured and most is not None:
            self._wanted = max(most, self._wanted or 0)
        before, self.most = self.scaled_down, most
        self.scaled_down = scaled_down_reason(most, self._wanted)
        self._next_look_at = self._clock() + self._pause_seconds()
        if self.scaled_down is not None and self.scaled_down != before:
            _log.warning("%s is scaled down: %s", self._name, self.scaled_down)
        elif before is not None and self.scaled_down is None:
            _log.info("%s is scaled down no longer: RunPod lets it have %s workers", self._name, most)

    def _pause_seconds(self) -> float:
        return self._settings.none_seconds if self.most == 0 else self._settings.look_seconds

    def _not_read(self, error: RestError) -> None:
        """Keeps what is known for a fault of the moment; what the key may not read is unknown."""
        if error.is_transient:
            return
        self.most, self.scaled_down = None, None
        if not self._is_refused:
            self._is_refused = True
            _log.info("the worker bounds of %s cannot be read, which stops nothing: %s", self._name, error.message)
