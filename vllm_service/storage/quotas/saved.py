"""Saves the counts of MemoryQuotas in the database, so that a day's and a month's use survive a restart."""

from __future__ import annotations

import asyncio
import logging

from vllm_service.domain.quotas import MOST_OF_A_PERIOD, utc_day, utc_month
from vllm_service.errors import ServiceError
from vllm_service.storage.quotas.counters import Counts, Period, PeriodKey, Periods
from vllm_service.storage.sql.database import Database, RowsRefused, Statement

#: How often counts are saved, and so how much a crash may lose.
SAVE_SECONDS = 0.5
#: How long the end of the process waits for a database that hangs, twice at most.
CLOSE_SECONDS = 2.0
log = logging.getLogger(__name__)
# Additions, not totals: several processes may add to one row. A sum stops at MOST_OF_A_PERIOD: beyond 64 bits SQLite
# would go on with a rounded number, and Postgres would refuse it.
_SUM = f"""CASE WHEN quota_use.{{0}} > {MOST_OF_A_PERIOD} - excluded.{{0}} THEN {MOST_OF_A_PERIOD}
    ELSE quota_use.{{0}} + excluded.{{0}} END"""
_ADD = f"""INSERT INTO quota_use (organisation, period, number, requests, tokens, picousd)
    VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (organisation, period, number) DO UPDATE SET requests = quota_use.requests + excluded.requests,
    tokens = {_SUM.format("tokens")}, picousd = {_SUM.format("picousd")}"""  # noqa: S608
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
        #: Periods that the database has refused; each is logged once.
        self._refused: set[PeriodKey] = set()
        self._closing = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def save(self) -> None:
        """Saves what was settled since the last time. What cannot be written now stays for the next time."""
        taken = {period: period.take_unsaved() for period in self._periods.unsaved}
        self._periods.unsaved.clear()
        if not taken:
            return
        await self._add(list(taken.items()))

    async def _add(self, taken: list[tuple[Period, Counts]]) -> None:
        """Adds the counts. Halving finds those that the database refuses, so that the others are saved all the same."""
        try:
            await self._database.write(*(Statement(_ADD, (*period.key, *_savable(counts))) for period, counts in taken))
        except RowsRefused as error:
            if len(taken) > 1:
                await self._add(taken[: len(taken) // 2])
                await self._add(taken[len(taken) // 2 :])
            elif taken[0][0].key not in self._refused:
                self._refused.add(taken[0][0].key)
                log.error("the use of a quota cannot be saved, and is lost at a restart: %s", error.message)
        except ServiceError as error:
            log.warning("the use of %d quotas is kept in memory only for now: %s", len(taken), error.message)
            for period, counts in taken:
                period.put_back(counts)

    async def close(self) -> None:
        """Stops the task, and saves the rest."""
        self._closing.set()
        await asyncio.wait({self._task}, timeout=CLOSE_SECONDS)
        if self._task.done():
            self._task = asyncio.create_task(self.save())
            await asyncio.wait({self._task}, timeout=CLOSE_SECONDS)
        if self._task.done():
            self._task.result()
        else:
            # Not awaited to its end: a driver's transaction waits once more for a database that hangs.
            self._task.cancel()
            log.error("the use of quotas since the last save is lost: the database did not answer at the end")

    async def _run(self) -> None:
        while not self._closing.is_set():
            try:
                await asyncio.wait_for(self._closing.wait(), self._save_seconds)
            except TimeoutError:
                await self.save()


def _savable(counts: Counts) -> Counts:
    requests, tokens, picousd = counts
    return requests, min(tokens, MOST_OF_A_PERIOD), min(picousd, MOST_OF_A_PERIOD)
