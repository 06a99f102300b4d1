"""Fetches RunPod's bills of own endpoints once an hour and applies them to the ledger, from one replica at a time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta

from vllm_service.accounting.day_billing import AppliedDay, DayBilling
from vllm_service.catalog.model import Catalog, Management, ManagementApi, Provider
from vllm_service.domain.bill import day_number, numbered_day, parts_by_date
from vllm_service.domain.money import to_usd
from vllm_service.errors import ServiceError
from vllm_service.runpod.billing import BillQuery, fetch_bill
from vllm_service.runpod.endpoint import SendHttp
from vllm_service.runpod.rate_limits import RateLimits
from vllm_service.runpod.rest_api import RestApi, endpoint_path
from vllm_service.storage.ledger.billed_days import BilledDayStore
from vllm_service.storage.ledger.lease import DatabaseLease
from vllm_service.storage.ledger.lives import LifeStore

_log = logging.getLogger(__name__)
#: Between two rounds: bills are by day, and RunPod's rate limits are shared with what is urgent.
EVERY_SECONDS = 3600.0
#: The first round comes when the start is over.
FIRST_SECONDS = 60.0
#: The days that are fetched again although they were applied, until their bills no longer change.
UNSTABLE_DAYS = 3
#: How far back a day that was booked and never billed is asked for, as after a gateway that was away.
OLDEST_DAYS = 30
_MOST_VOLUMES = 20


class BillSchedule:
    """The bills of every endpoint that is managed by REST v2. clock: seconds since 1970."""

    def __init__(
        self,
        catalog: Callable[[], Catalog],
        send: SendHttp,
        days: BilledDayStore,
        lives: LifeStore,
        lease: DatabaseLease,
        *,
        limits: RateLimits | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._catalog = catalog
        self._send = send
        self._days = days
        self._lives = lives
        self._lease = lease
        self._limits = limits
        self._clock = clock
        #: The providers whose last fetch failed: only the first failure in a row is a warning.
        self._failing: set[str] = set()

    async def run(self) -> None:
        """Runs rounds until it is cancelled."""
        await asyncio.sleep(FIRST_SECONDS)
        while True:
            await self.round()
            await asyncio.sleep(EVERY_SECONDS)

    async def round(self) -> None:
        """Fetches and applies what is due, if this replica holds the lease. Errors are logged, and tried again."""
        try:
            if not await self._lease.held():
                return
        except ServiceError as error:
            _log.warning("the bills are not fetched now, and are in an hour: %s", error.message)
            return
        billed_volumes: set[str] = set()
        for provider in self._catalog().providers.values():
            if provider.management is not None and provider.management.api is ManagementApi.V2:
                await self._try(provider, provider.management, billed_volumes)

    async def _try(self, provider: Provider, management: Management, billed_volumes: set[str]) -> None:
        try:
            await self._bill(provider, management, billed_volumes)
            self._failing.discard(provider.name)
        except ServiceError as error:
            level = logging.INFO if provider.name in self._failing else logging.WARNING
            self._failing.add(provider.name)
            _log.log(
                level, "the bill of %s could not be booked, tried again in an hour: %s", provider.name, error.message
            )

    async def _bill(self, provider: Provider, management: Management, billed_volumes: set[str]) -> None:
        now = self._clock()
        last = datetime.fromtimestamp(now, UTC).date() - timedelta(days=1)
        first = await self._first(provider.name, last)
        api = RestApi(management.origin, provider.api_key, self._send, limits=self._limits)
        volumes = await _volumes(api, management.endpoint_id, billed_volumes)
        bill = await fetch_bill(api, BillQuery(first, last, management.endpoint_id, volumes))
        billing = DayBilling(provider.name, self._days, self._lives)
        for applied in await billing.apply(parts_by_date(bill.lines), round(now * 1_000_000)):
            if applied.has_changed:
                _log.info("%s", _said(applied))

    async def _first(self, provider: str, last: date) -> date:
        """Returns the first day to ask for: the oldest that was booked and not billed, or the first that may change."""
        newest = day_number(last)
        oldest = newest - OLDEST_DAYS + 1
        billed = {
            day.day
            for day in await self._days.days(oldest, newest)
            if day.provider == provider and day.applied_at_us is not None
        }
        unbilled = {day.day for day in await self._lives.days(provider, oldest, newest)} - billed
        return numbered_day(min([newest - UNSTABLE_DAYS + 1, *unbilled]))


async def _volumes(api: RestApi, endpoint_id: str, billed: set[str]) -> tuple[str, ...]:
    """Returns the endpoint's network volumes, and notes them in `billed`: one that two endpoints use is billed once."""
    document = await api.get(endpoint_path(endpoint_id))
    named = document.get("networkVolumes")
    listed: Sequence[object] = named if isinstance(named, list) else ()
    found = tuple(one for one in listed[:_MOST_VOLUMES] if isinstance(one, str) and one and one not in billed)
    billed.update(found)
    return found


def _said(applied: AppliedDay) -> str:
    day = applied.day
    on = numbered_day(day.day)
    surplus = day.unexplained_picousd or 0
    unexplained = f", ${to_usd(surplus):.4f} of it unexplained" if surplus else ""
    return f"{day.provider}: {on} is billed, ${to_usd(day.compute_picousd) or 0:.4f} for workers{unexplained}"
