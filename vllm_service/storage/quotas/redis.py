"""Limits that any number of processes share, exact to the request: one script checks and reserves, one ends it.

Each script is atomic in Redis; check, then increment, in two commands would let replicas pass a limit together.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
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
from vllm_service.storage.quotas.alone import ShareOfQuotas
from vllm_service.storage.quotas.counters import bounded
from vllm_service.storage.quotas.memory import LEASE_SECONDS
from vllm_service.storage.quotas.refusals import LIMITS, allowed_by, period_wait_seconds, rejection, requested_amounts
from vllm_service.storage.quotas.waiting_ends import End, WaitingEnds
from vllm_service.storage.redis_replies import RedisSilent, reply_within

if TYPE_CHECKING:
    from vllm_service.storage.redis_link import RedisLink

_PREFIX = "vllm-service"
_RATES = (Limit.REQUESTS_PER_MINUTE, Limit.ADDRESS_REQUESTS_PER_SECOND)
_WINDOWS = (KEY_WINDOW.buckets, KEY_WINDOW.bucket_ms, ADDRESS_WINDOW.buckets, ADDRESS_WINDOW.bucket_ms)
#: How long a request waits for Redis's reply. A slow Redis delays requests up to here, and refuses none before.
REPLY_SECONDS = 5.0
#: How long the end of a request waits for the reply; after it the end goes on beside the next request.
END_SECONDS = 1.0
#: The most requests of one organisation that wait for Redis: a quarter of what a link holds for all.
MOST_WAITING_OF_ONE = 2_500


class WhenRedisIsAway(StrEnum):
    """The treatment of requests while Redis is away."""

    #: Requests fail with STORAGE_503.
    REFUSE = "refuse"
    #: While nothing answers, each process counts by itself, and gives out its share of each limit.
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
        fallback: ShareOfQuotas | None = None,
        uses_server_clock: bool = True,
        reply_seconds: float = REPLY_SECONDS,
        end_seconds: float = END_SECONDS,
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
        self._reply_seconds = reply_seconds
        self._end_seconds = end_seconds
        #: By organisation, how many of its requests wait for Redis.
        self._waiting: dict[str, int] = {}
        self._unsent = WaitingEnds(self._send)
        #: Ends that are being sent. The event loop holds tasks weakly, so they would be collected without this.
        self._ending: set[asyncio.Task[None]] = set()

    def status(self) -> QuotaState:
        """Returns whether Redis is away. Reservations are not counted here: they are all replicas'."""
        pipeline = self._link.pipeline
        counts_alone = self._fallback is not None and pipeline.is_silent
        return QuotaState(is_failing=pipeline.is_away and not counts_alone, is_counting_alone=counts_alone)

    @property
    def waiting_ends(self) -> int:
        """The number of ends of reservations that wait for Redis."""
        return len(self._unsent)

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
        try:
            reply = await self._taken(key.organisation, reservation, arguments)
        except RedisSilent:
            if self._fallback is None:
                raise
            return await self._fallback.reserve(key, client_ip, tokens, cost_picousd, now_seconds)
        if not reply[0]:
            raise self._rejection(allowed, reply[1:], tokens, cost_picousd, now_seconds)
        if self._fallback is not None:
            self._fallback.note(key, reply[1], now_seconds)
        return reservation

    async def _taken(self, organisation: str, reservation: RedisReservation, arguments: list[str | int]) -> list[Any]:
        """Returns the reply of reserve.lua. What it takes for a request that does not wait for it is given back."""
        waiting = self._waiting.get(organisation, 0)
        if waiting >= MOST_WAITING_OF_ONE:
            raise StorageUnavailable(
                f"Redis, which holds the limits, is slow, and {waiting:,} requests of this organisation wait for it. "
                "Try again; if it lasts, check Redis's load and the network to it.",
                retry_after_seconds=1.0,
            )
        taking = self._reserve(reservation.keys, arguments)
        self._waiting[organisation] = waiting + 1
        try:
            reply: list[Any] = await reply_within(taking, self._reply_seconds)
        except (asyncio.CancelledError, StorageUnavailable):
            # The caller has left, or was refused: nothing will end what Redis takes, or has taken in this very turn.
            if not taking.cancelled():
                self._keep(self._give_back(taking, reservation))
            raise
        finally:
            if self._waiting[organisation] == 1:
                del self._waiting[organisation]
            else:
                self._waiting[organisation] -= 1
        return reply

    async def end(self, reservation: RedisReservation, how: str, tokens: int = 0, picousd: int = 0) -> None:
        """Runs end.lua now or, if Redis is away, as soon as it is back. Raises nothing but its own cancellation.

        A caller who leaves meanwhile does not stop it: what was used is booked all the same. A slow Redis does not
        hold the caller up: after a moment this returns, and the end goes on.
        """
        ending = self._keep(self._end_once(End(reservation, how, bounded(tokens), bounded(picousd))))
        await asyncio.wait({ending}, timeout=self._end_seconds)

    def _keep(self, ending: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(ending)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task

    async def _give_back(self, taking: asyncio.Future[list[Any]], reservation: RedisReservation) -> None:
        """Releases what a request has taken that no longer waited for the reply."""
        with contextlib.suppress(StorageRefused, StorageUnavailable):
            reply = await taking
            if reply[0]:
                await self._end_once(End(reservation, "release", 0, 0))

    async def _end_once(self, end: End) -> None:
        try:
            await self._send(end)
        except StorageRefused as error:
            self._unsent.refused(error)
        except StorageUnavailable as error:
            self._unsent.add(end, error)

    async def close(self) -> None:
        """Sends the ends that wait, if Redis answers in time. The expiry of leases gives back the others."""
        if self._ending:
            await asyncio.wait(self._ending, timeout=self._reply_seconds)
        await self._unsent.close()

    async def _send(self, end: End) -> None:
        reservation = end.reservation
        await self._end(reservation.keys, reservation.arguments(end.how, end.tokens, end.picousd))

    def _reservation(
        self, key: ApiKey, client_ip: str | None, tokens: int, picousd: int, now_seconds: float
    ) -> RedisReservation:
        periods = self._periods(key.organisation, now_seconds)
        day = utc_day(now_seconds)
        lease = f"{self._process}-{next(self._numbers)}:{day}:{utc_month(day)}:{tokens}:{picousd}"
        windows = (f"{_PREFIX}:key:{key.id}", f"{_PREFIX}:address:{client_ip or ''}")
        keys = (*windows, *periods, self._leases(key.organisation), f"{_PREFIX}:key:{key.id}:leases")
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
