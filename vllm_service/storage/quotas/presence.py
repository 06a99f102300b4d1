"""A task of each process that shares limits in Redis: it registers there, and hands over what it has counted alone.

The number of registered processes is what each divides the limits by while nothing answers at Redis's address.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from itertools import count
from typing import TYPE_CHECKING, Any

from vllm_service.domain.quotas import utc_month
from vllm_service.errors import ServiceError, StorageRefused
from vllm_service.logs import source_location
from vllm_service.storage.quotas.alone import ShareOfQuotas
from vllm_service.storage.quotas.counters import Counts, Period, PeriodKey
from vllm_service.storage.redis_replies import reply_within

if TYPE_CHECKING:
    from vllm_service.storage.redis_link import RedisLink

log = logging.getLogger(__name__)
BEAT_SECONDS = 1.0
#: Thirty beats: after so long a process that was killed is counted no more.
LOST_AFTER_SECONDS = 30.0
_REPLY_SECONDS = 5.0
_CLOSE_SECONDS = 2.0
_PREFIX = "vllm-service"
#: As in reserve.lua: a day's counts stay for a week after it, a month's for two months.
_STAYS_SECONDS = {"day": 8 * 86_400, "month": 93 * 86_400}
_NUMBER_STAYS_SECONDS = 86_400
#: The highest count of so many beats is used: after an outage the processes register one by one.
_BEATS = 30
#: Totals are read of so many organisations at most, and for so many beats after their last request here.
MOST_REFRESHED = 1_000
_REFRESHED_BEATS = 30


class Presence:
    """Registers this process every few seconds. alone: counts while Redis is silent; None where nothing does.

    at_least: how many processes there are at least, for a start while Redis is away.
    """

    def __init__(
        self,
        link: RedisLink,
        alone: ShareOfQuotas | None,
        *,
        at_least: int = 1,
        beat_seconds: float = BEAT_SECONDS,
    ) -> None:
        self._link = link
        self._alone = alone
        self._at_least = at_least
        self._beat_seconds = beat_seconds
        self._beat = link.script(__package__, "beat.lua")
        self._merge = link.script(__package__, "merge.lua")
        self._process = secrets.token_hex(8)
        self._numbers = count()
        self._beats = count()
        #: Organisations that were active here of late: the day and the beat of their last request.
        self._active: dict[str, tuple[int, int]] = {}
        self._counted: deque[int] = deque(maxlen=_BEATS)
        #: Merges whose end is not known yet, by period: they are sent again as they were.
        self._merging: dict[PeriodKey, tuple[str, Counts]] = {}
        self._task = asyncio.create_task(self._run(), name="presence in Redis")

    async def beat(self) -> None:
        """Registers, and hands over what was counted alone. Raises ServiceError while Redis cannot be used."""
        lost_after_ms = int(LOST_AFTER_SECONDS * 1000)
        processes = await reply_within(
            self._beat([f"{_PREFIX}:processes"], [self._process, lost_after_ms]), _REPLY_SECONDS
        )
        self._counted.append(processes)
        if self._alone is not None:
            self._alone.processes = max(self._at_least, *self._counted)
            await self._refresh(self._alone)
            for period in self._alone.periods.settled():
                await self._hand_over(period)

    async def close(self) -> None:
        """Hands over the rest, and ends the registration, if Redis answers."""
        self._task.cancel()
        await asyncio.wait({self._task})
        with contextlib.suppress(ServiceError, TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self.beat()
                await self._link.call("ZREM", f"{_PREFIX}:processes", self._process)

    async def _refresh(self, alone: ShareOfQuotas) -> None:
        """Reads what all processes have taken of the limits of organisations that were active here of late."""
        beat = next(self._beats)
        self._active |= {organisation: (day, beat) for organisation, day in alone.take_active().items()}
        latest = list(self._active.items())[-MOST_REFRESHED:]
        self._active = {organisation: of for organisation, of in latest if of[1] > beat - _REFRESHED_BEATS}
        replies = [
            (organisation, day, self._read(organisation, day)) for organisation, (day, _) in self._active.items()
        ]
        for organisation, day, both in replies:
            with contextlib.suppress(StorageRefused):
                used = [int(count or 0) for reply in both for count in await reply_within(reply, _REPLY_SECONDS)]
                alone.note_periods(organisation, day, used)

    def _read(self, organisation: str, day: int) -> tuple[asyncio.Future[Any], asyncio.Future[Any]]:
        prefix = f"{_PREFIX}:org:{organisation}"
        of_day = self._link.call("HMGET", f"{prefix}:day:{day}", "requests", "tokens")
        of_month = self._link.call("HMGET", f"{prefix}:month:{utc_month(day)}", "tokens", "picousd")
        return of_day, of_month

    async def _hand_over(self, period: Period) -> None:
        organisation, name, number = period.key
        merge, counts = self._merging.setdefault(period.key, (self._next_merge(), period.settled))
        keys = [f"{_PREFIX}:org:{organisation}:{name}:{number}", merge]
        try:
            await reply_within(
                self._merge(keys, [*counts, _STAYS_SECONDS[name], _NUMBER_STAYS_SECONDS]), _REPLY_SECONDS
            )
        except StorageRefused as error:  # of this organisation alone: the others are handed over all the same
            log.error("what an organisation used while Redis was away is not counted there: %s", error.message)
        period.hand_over(counts)
        del self._merging[period.key]

    def _next_merge(self) -> str:
        return f"{_PREFIX}:merge:{self._process}:{next(self._numbers)}"

    async def _run(self) -> None:
        while True:
            try:
                await self.beat()
            except ServiceError:
                pass  # the next beat finds out whether Redis is back
            except Exception as error:
                log.error("a process could not register in Redis: %s", source_location(error))
            await asyncio.sleep(self._beat_seconds)
