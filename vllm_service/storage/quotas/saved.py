"""Saves the counts of MemoryQuotas in the database, so that a day's and a month's use survive a restart."""

from __future__ import annotations

import asyncio
import logging

from vllm_service.domain.quotas import utc_day, utc_month
from vllm_service.errors import ServiceError
from vllm_service.storage.quotas.counters import Counts, PeriodKey, Periods
from vllm_service.storage.sql.database import Database, Statement

#: How often counts are saved, and so how much a crash may lose.
SAVE_SECONDS = 0.5
log = logging.getLogger(__name__)
# Additions, not totals: several processes may add to one row.
_ADD = """INSERT INTO quota_use (organisation, period, number, requests, tokens, picousd)
    VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (organisation, period, number) DO UPDATE SET requests = quota_use.requests + excluded.requests,
    tokens = quota_use.tokens + excluded.tokens, picousd = quota_use.picousd + excluded.picousd"""
_LOAD = """SELECT organisation, period, number, requests, tokens, picousd FROM quota_use
    WHERE (period = 'day' AND number >= $1) OR (period = 'month' AND number >= $2)"""
_FORGET = "DELETE FROM quota_use WHERE (period = 'day' AND number < $1) OR (period = 'month' AND number < $2)"


async def load(database: Database, now_seconds: float) -> dict[PeriodKey, Counts]:
    """Returns the counts of recent days and months, and deletes older ones."""
    day = utc_day(now_seconds)
    oldest = (day - 7, utc_month(day) - 2)  # as in Periods.forget_before
    await database.write(Statement(_FORGET, oldest))
    return {(row[0], row[1], row[2]): (row[3], row[4], row[5]) for row in await database.fetch(_LOAD, *oldest)}


class QuotaSaver:
    """A task that saves settled counts every half second, and at the end. A crash loses at most those of that time."""

    def __init__(self, database: Database, periods: Periods, *, save_seconds: float = SAVE_SECONDS) -> None:
        self._database = database
        self._periods = periods
        self._save_seconds = save_seconds
        self._closing = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def save(self) -> None:
        """Saves what was settled since the last time. What cannot be written now stays for the next time."""
        taken = {period: period.take_unsaved() for period in self._periods.unsaved}
        self._periods.unsaved.clear()
        if not taken:
            return
        try:
            await self._database.write(*(Statement(_ADD, (*period.key, *counts)) for period, counts in taken.items()))
        except ServiceError as error:
            log.warning("the use of %d quotas is kept in memory only for now: %s", len(taken), error.message)
            for period, counts in taken.items():
                period.put_back(counts)

    async def close(self) -> None:
        """Stops the task, and saves the rest."""
        self._closing.set()
        await self._task
        await self.save()

    async def _run(self) -> None:
        while not self._closing.is_set():
            try:
                await asyncio.wait_for(self._closing.wait(), self._save_seconds)
            except TimeoutError:
                await self.save()
