"""Applies bills by day to the ledger: what was booked of a day is scaled to its bill, and the rest is kept apart.

A row's costs belong to the day on which its request began. Idle seconds after midnight are on the next day's bill, so
that bill's part for requests of earlier days is added to the last day before it that has any, and is no request's where
those rows are deleted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date

from vllm_service.accounting.life_slices import BACK_DAYS
from vllm_service.accounting.scaling import BilledShares, RunningSplit, SeenDay, shares
from vllm_service.domain.bill import DAY_US, BilledParts, BillPart, day_number, numbered_day
from vllm_service.domain.money import PICOUSD_PER_USD
from vllm_service.storage.ledger.billed_days import BilledDay, BilledDayStore
from vllm_service.storage.ledger.lives import BookedDay, LifeStore

#: A worker that was not seen for a quarter of an hour is taken to have stopped; its seconds are booked soon after.
SETTLES_US = 1800 * 1_000_000
#: A day is billed so long after its end although seconds of it still wait to be booked.
LATEST_US = 26 * 3600 * 1_000_000

#: A part of one day's bill is at most a million dollars; a larger one is a mistake in the bill.
MOST_PICOUSD = 10**6 * PICOUSD_PER_USD


@dataclass(frozen=True, slots=True)
class AppliedDay:
    """A day as it was billed, and whether anything has changed by it."""

    day: BilledDay
    has_changed: bool


class DayBilling:
    """Applies the bills of one provider. It may be repeated: the same bill and bookings change nothing."""

    def __init__(self, provider: str, days: BilledDayStore, lives: LifeStore) -> None:
        self._provider = provider
        self._days = days
        self._lives = lives

    async def apply(self, bill: Mapping[date, BilledParts], now_us: int) -> list[AppliedDay]:
        """Stores each day's bill, and scales the rows of days that are over and booked. Raises StorageUnavailable.

        A day whose compute amount is unknown is stored and not applied.
        """
        numbers = sorted(map(day_number, bill))
        if not numbers:
            return []
        stored = {
            day.day: day for day in await self._days.days(numbers[0], numbers[-1]) if day.provider == self._provider
        }
        until = await self._lives.booked_until(self._provider)
        applied = []
        for number in numbers:
            parts = bill[numbered_day(number)]
            fetched = _fetched(self._provider, number, parts, now_us)
            is_due = await self._is_due(number, until, now_us)
            applied.append(await self._apply_day(fetched, stored.get(number), is_due=is_due, now_us=now_us))
        return applied

    async def _apply_day(
        self, fetched: BilledDay, stored: BilledDay | None, *, is_due: bool, now_us: int
    ) -> AppliedDay:
        known = fetched if stored is None else _merged(stored, fetched)
        if known.compute_picousd is None or not is_due:
            await self._days.put(known)
            return AppliedDay(known, has_changed=False)
        await self._days.book_expected(self._provider, known.day)
        seen = _seen(await self._lives.days(self._provider, known.day, known.day))
        before = None
        if seen.earlier_picousd:
            before = await self._days.latest_day_with_rows(self._provider, known.day, BACK_DAYS)
            if before is None:
                seen = _without_earlier(seen)
        found = shares(known.compute_picousd, seen)
        shared = _shared(known, seen, found)
        if stored is not None and stored.applied_at_us is not None and _same_shares(stored, shared):
            await self._days.put(shared)
            return AppliedDay(shared, has_changed=False)
        await self._days.put(replace(shared, applied_at_us=None))
        if before is not None:
            await self._scale_rows(before)
        await self._scale_rows(known.day)
        await self._days.mark_applied(self._provider, known.day, now_us)
        return AppliedDay(replace(shared, applied_at_us=now_us), has_changed=True)

    async def _is_due(self, day: int, booked_until_us: int | None, now_us: int) -> bool:
        """Returns whether a day is over and what its requests pay is booked, or has had its time to be."""
        end_us = (day + 1) * DAY_US
        if now_us < end_us + SETTLES_US:
            return False
        is_booked = booked_until_us is None or booked_until_us >= end_us
        if is_booked and not await self._days.has_pending_rows(self._provider, day):
            return True
        return now_us >= end_us + LATEST_US

    async def _scale_rows(self, day: int) -> None:
        """Sets the costs of the rows of a day that is billed; those of another day stay."""
        amount = await self._due_of_rows(day)
        booked = await self._days.booked_picousd(self._provider, day)
        if amount is None:
            return
        split = RunningSplit(amount, booked)
        async for page in self._days.pages(self._provider, day):
            await self._days.set_billed(page, [split.part(row.booked_picousd) for row in page])

    async def _due_of_rows(self, day: int) -> int | None:
        """Returns what the rows of a day pay: of its own bill, and of the days after it until one has rows.

        Of a day after it that is not billed, as booked. None: the day itself is not billed.
        """
        last = day + BACK_DAYS
        billed = {one.day: one for one in await self._days.days(day, last) if one.provider == self._provider}
        own = billed.get(day)
        if own is None or own.requests_picousd is None:
            return None
        amount = own.requests_picousd
        booked = await self._lives.days(self._provider, day + 1, last)
        earlier_of: dict[int, int] = {}
        for one in booked:
            earlier_of[one.day] = earlier_of.get(one.day, 0) + one.earlier_picousd
        for number in range(day + 1, last + 1):
            share = billed[number].earlier_picousd if number in billed else None
            amount += earlier_of.get(number, 0) if share is None else share
            if await self._days.booked_picousd(self._provider, number):
                break
        return amount


def _fetched(provider: str, day: int, parts: BilledParts, now_us: int) -> BilledDay:
    return BilledDay(
        provider=provider,
        day=day,
        gpu_picousd=_believed(parts.of(BillPart.GPU)),
        cpu_picousd=_believed(parts.of(BillPart.CPU)),
        disk_picousd=_believed(parts.of(BillPart.DISK)),
        fee_picousd=_believed(parts.of(BillPart.FEE)),
        volume_picousd=_believed(parts.of(BillPart.VOLUME)),
        compute_picousd=_believed(parts.compute_picousd),
        beyond_parts_picousd=_believed(parts.beyond_parts_picousd),
        fetched_at_us=now_us,
    )


def _believed(picousd: int | None) -> int | None:
    """Returns the amount; None, unknown, where no endpoint costs so much in a day, and sums might pass 64 bits."""
    return None if picousd is None or abs(picousd) > MOST_PICOUSD else picousd


def _merged(stored: BilledDay, fetched: BilledDay) -> BilledDay:
    """Returns the stored day with what the new bill knows."""
    names = ("gpu", "cpu", "disk", "fee", "volume", "compute", "beyond_parts")
    news = {f"{name}_picousd": value for name in names if (value := getattr(fetched, f"{name}_picousd")) is not None}
    return replace(stored, **news, fetched_at_us=fetched.fetched_at_us)


def _seen(days: Iterable[BookedDay]) -> SeenDay:
    """Returns what was booked of a day's seconds."""
    requests = earlier = nobody = 0
    for day in days:
        requests += day.execution_picousd + day.cold_start_picousd + day.idle_picousd - day.earlier_picousd
        earlier += day.earlier_picousd
        nobody += day.nobody_picousd
    return SeenDay(requests, earlier, nobody)


def _without_earlier(seen: SeenDay) -> SeenDay:
    """Returns what was booked of a day, where the rows that would pay for its first seconds are deleted."""
    return replace(seen, earlier_picousd=0, nobody_picousd=seen.nobody_picousd + seen.earlier_picousd)


def _shared(day: BilledDay, seen: SeenDay, found: BilledShares) -> BilledDay:
    return replace(
        day,
        seen_picousd=seen.total_picousd,
        requests_picousd=found.requests_picousd,
        earlier_picousd=found.earlier_picousd,
        nobody_picousd=found.nobody_picousd,
        unexplained_picousd=found.unexplained_picousd,
    )


def _same_shares(one: BilledDay, other: BilledDay) -> bool:
    names = ("compute", "seen", "requests", "earlier", "nobody", "unexplained")
    return all(getattr(one, f"{name}_picousd") == getattr(other, f"{name}_picousd") for name in names)
