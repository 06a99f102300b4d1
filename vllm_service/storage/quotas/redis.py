"""Limits that any number of processes share, exact to the request: one script checks and reserves, one ends it.

Each script is atomic in Redis; check, then increment, in two commands would let replicas pass a limit together.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from typing import TYPE_CHECKING, Any

from vllm_service.domain.keys import ApiKey
from vllm_service.domain.quotas import (
    ADDRESS_REQUESTS_PER_SECOND,
    ADDRESS_WINDOW,
    KEY_WINDOW,
    Limit,
    utc_day,
    utc_month,
)
from vllm_service.domain.status import QuotaState
from vllm_service.errors import RateLimited, StorageRefused, StorageUnavailable
from vllm_service.storage.protocol import Reservation
from vllm_service.storage.quotas.counters import bounded
from vllm_service.storage.quotas.memory import LEASE_SECONDS, MemoryQuotas
from vllm_service.storage.quotas.refusals import LIMITS, allowed_by, period_wait_seconds, rejection, requested_amounts

if TYPE_CHECKING:
    from vllm_service.storage.redis_link import RedisLink

log = logging.getLogger(__name__)
_PREFIX = "vllm-service"
_RATES = (Limit.REQUESTS_PER_MINUTE, Limit.ADDRESS_REQUESTS_PER_SECOND)
_WINDOWS = (KEY_WINDOW.buckets, KEY_WINDOW.bucket_ms, ADDRESS_WINDOW.buckets, ADDRESS_WINDOW.bucket_ms)
#: How often the ends of reservations are sent again while Redis is away.
_RETRY_SECONDS = 0.5
#: The most ends that wait for Redis in memory.
_MAX_UNSETTLED = 100_000


class WhenRedisIsAway(StrEnum):
    """The treatment of requests while Redis is away."""

    #: Requests fail with STORAGE_503.
    REFUSE = "refuse"
    #: Each process applies all limits by its own counts.
    COUNT_ALONE = "count_alone"


@dataclass(slots=True)
class RedisReservation:
    """Implements protocol.Reservation."""

    owner: RedisQuotas
    #: The KEYS of both scripts.
    keys: tuple[str, ...]
    #: "id:day:month:tokens:pico-dollars": all that Redis needs to give the reservation back after a crash.
    lease: str
    tokens: int
    picousd: int

    async def settle(self, tokens: int, cost_picousd: int) -> None:
        """Implements Reservation. While Redis is away this waits in memory, and is sent later."""
        await self.owner.end(self, "settle", tokens, cost_picousd)

    async def release(self) -> None:
        """Implements Reservation. While Redis is away this waits too, or the lease's expiry gives it back."""
        await self.owner.end(self, "release")

    def arguments(self, how: str, tokens: int, picousd: int) -> list[str | int]:
        """Returns the ARGV of end.lua."""
        return [self.lease, how, -self.tokens, -self.picousd, tokens, picousd]


class RedisQuotas:
    """Implements protocol.Quotas. Minutes, seconds and leases go by Redis's clock, days and months by the caller's.

    fallback: counts in this process while Redis is away; with None, requests are refused then.
    uses_server_clock: False uses the caller's clock for everything.
    """

    def __init__(
        self,
        link: RedisLink,
        *,
        lease_seconds: float = LEASE_SECONDS,
        address_limit: int = ADDRESS_REQUESTS_PER_SECOND,
        fallback: MemoryQuotas | None = None,
        uses_server_clock: bool = True,
    ) -> None:
        self._link = link
        self._reserve = link.script(__package__, "reserve.lua")
        self._end = link.script(__package__, "end.lua")
        self._lease_ms = int(lease_seconds * 1000)
        self._address_limit = address_limit
        self._fallback = fallback
        self._uses_server_clock = uses_server_clock
        self._process = secrets.token_hex(8)
        self._numbers = count()
        self._unsettled: deque[tuple[RedisReservation, str, int, int]] = deque()
        self._sender: asyncio.Task[None] | None = None
        #: Ends that are being sent. The event loop holds tasks weakly, so they would be collected without this.
        self._ending: set[asyncio.Task[None]] = set()
        self._refused_ends = 0

    def status(self) -> QuotaState:
        """Returns whether Redis is away. Reservations are not counted here: they are all replicas'."""
        return QuotaState(is_failing=self._link.is_resting)

    @property
    def waiting_ends(self) -> int:
        """The number of ends of reservations that wait for Redis."""
        return len(self._unsettled)

    async def reserve(
        self, key: ApiKey, client_ip: str | None, tokens: int, cost_picousd: int, now_seconds: float
    ) -> Reservation:
        """Implements protocol.Quotas."""
        tokens, cost_picousd = bounded(tokens), bounded(cost_picousd)
        reservation = self._reservation(key, client_ip, tokens, cost_picousd, now_seconds)
        allowed = allowed_by(key, self._address_limit)
        if client_ip is None:
            allowed[Limit.ADDRESS_REQUESTS_PER_SECOND] = None
        arguments: list[str | int] = [
            self._now_ms(now_seconds),
            self._lease_ms,
            reservation.lease,
            tokens,
            cost_picousd,
            f"{_PREFIX}:org:{key.organisation}:",
            *("" if allowed[limit] is None else str(allowed[limit]) for limit in LIMITS),
            *_WINDOWS,
        ]
        taking = asyncio.create_task(self._link.execute(lambda: self._reserve(reservation.keys, arguments)))
        try:
            reply = await asyncio.shield(taking)
        except asyncio.CancelledError:  # the caller has left: nothing will end what Redis takes
            self._keep(self._give_back(taking, reservation))
            raise
        except StorageUnavailable:
            if self._fallback is None:
                raise
            return await self._fallback.reserve(key, client_ip, tokens, cost_picousd, now_seconds)
        if not reply[0]:
            raise self._rejection(allowed, reply[1:], tokens, cost_picousd, now_seconds)
        return reservation

    async def end(self, reservation: RedisReservation, how: str, tokens: int = 0, picousd: int = 0) -> None:
        """Runs end.lua now or, if Redis is away, as soon as it is back. Raises nothing but its own cancellation.

        A caller who leaves meanwhile does not stop it: what was used is booked all the same.
        """
        await asyncio.shield(self._keep(self._end_once(reservation, how, bounded(tokens), bounded(picousd))))

    def _keep(self, ending: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(ending)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task

    async def _give_back(self, taking: asyncio.Task[list[int]], reservation: RedisReservation) -> None:
        """Releases what a request has taken whose caller left before the reply came."""
        with contextlib.suppress(StorageRefused, StorageUnavailable):
            reply = await taking
            if reply[0]:
                await self._end_once(reservation, "release", 0, 0)

    async def _end_once(self, reservation: RedisReservation, how: str, tokens: int, picousd: int) -> None:
        try:
            await self._send(reservation, how, tokens, picousd)
        except StorageRefused as error:
            self._lost(error)
        except StorageUnavailable as error:
            if len(self._unsettled) >= _MAX_UNSETTLED:
                log.error("a reservation's end is lost: %d wait for Redis already", len(self._unsettled))
                return
            if not self._unsettled:
                log.warning("ends of reservations wait until Redis is back: %s", error.message)
            # A cause means that the first sending may have arrived; "settle again" then books only what is still open.
            again = "settle again" if how == "settle" and error.__cause__ is not None else how
            self._unsettled.append((reservation, again, tokens, picousd))
            if self._sender is None or self._sender.done():
                self._sender = asyncio.create_task(self._send_later(), name="reservations that wait for Redis")

    async def close(self) -> None:
        """Sends the ends that wait, if Redis answers. The expiry of leases gives back the others."""
        if self._sender is not None:
            self._sender.cancel()
        if self._ending:
            await asyncio.wait(self._ending)
        try:
            while self._unsettled:
                await self._send_first()
        except StorageUnavailable as error:
            log.error("the ends of %d reservations are lost: %s", len(self._unsettled), error.message)

    async def _send(self, reservation: RedisReservation, how: str, tokens: int, picousd: int) -> None:
        arguments = reservation.arguments(how, tokens, picousd)
        await self._link.execute(lambda: self._end(reservation.keys, arguments))

    async def _send_later(self) -> None:
        while self._unsettled:
            try:
                await self._send_first()
            except StorageUnavailable:
                await asyncio.sleep(_RETRY_SECONDS)

    async def _send_first(self) -> None:
        # It is removed only after it was sent, so that a cancellation or failure loses none.
        reservation, how, tokens, picousd = self._unsettled[0]
        try:
            await self._send(reservation, how, tokens, picousd)
        except StorageRefused as error:  # the others must not wait behind it for ever
            self._lost(error)
        self._unsettled.popleft()

    def _lost(self, error: StorageRefused) -> None:
        self._refused_ends += 1
        log.error("the end of a reservation is lost, %d since the start: %s", self._refused_ends, error.message)

    def _reservation(
        self, key: ApiKey, client_ip: str | None, tokens: int, picousd: int, now_seconds: float
    ) -> RedisReservation:
        periods = self._periods(key.organisation, now_seconds)
        day = utc_day(now_seconds)
        lease = f"{self._process}-{next(self._numbers)}:{day}:{utc_month(day)}:{tokens}:{picousd}"
        windows = (f"{_PREFIX}:key:{key.id}", f"{_PREFIX}:address:{client_ip or ''}")
        keys = (*windows, *periods, self._leases(key.organisation))
        return RedisReservation(self, keys, lease, tokens, picousd)

    def _now_ms(self, now_seconds: float) -> str | int:
        return "" if self._uses_server_clock else int(now_seconds * 1000)

    def _leases(self, organisation: str) -> str:
        return f"{_PREFIX}:org:{organisation}:leases"

    def _periods(self, organisation: str, now_seconds: float) -> tuple[str, str]:
        day = utc_day(now_seconds)
        return f"{_PREFIX}:org:{organisation}:day:{day}", f"{_PREFIX}:org:{organisation}:month:{utc_month(day)}"

    def _rejection(
        self, allowed: dict[Limit, int | None], reply: list[int], tokens: int, picousd: int, now_seconds: float
    ) -> RateLimited:
        waits = {
            limit: value / 1000 if limit in _RATES else period_wait_seconds(limit, now_seconds, value == 0)
            for limit, value in zip(LIMITS, reply, strict=True)
            if value >= 0
        }
        return rejection(allowed, waits, requested_amounts(tokens, picousd))
