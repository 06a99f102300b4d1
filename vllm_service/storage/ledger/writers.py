"""The register of the ledger's writers: each process registers, sends heartbeats, and closes its entry.

A process without heartbeats that was not closed was killed. It has lost at most the rows of its last flush interval.
Their number is unknown, so another process logs the loss, and `ledger summary` shows it from then on.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from vllm_service.domain.timestamps import rfc3339
from vllm_service.storage.sql.database import Database, Statement

log = logging.getLogger(__name__)
HEARTBEAT_SECONDS = 5.0
#: Six heartbeats: one that is late because the database is slow counts as no loss.
LOST_AFTER_SECONDS = 30.0

_REGISTER = """INSERT INTO ledger_writers
    (writer, host, pid, started_at_us, heard_at_us, rows_written, rows_dropped, complete_until_us)
    VALUES ($1, $2, $3, $4, $4, 0, 0, $4)"""
_HEARTBEAT = """UPDATE ledger_writers SET heard_at_us = $1, rows_written = $2, rows_dropped = $3, rows_refused = $4,
    complete_until_us = $5 WHERE writer = $6"""
# A writer that was taken for lost and is heard again still has requests.
_COMPLETE = """SELECT COUNT(*), COUNT(complete_until_us), MIN(complete_until_us) FROM ledger_writers
    WHERE closed_at_us IS NULL AND (lost_at_us IS NULL OR heard_at_us > lost_at_us)"""
_CLOSE = "UPDATE ledger_writers SET closed_at_us = $1 WHERE writer = $2"
_FIND_LOST = """UPDATE ledger_writers SET lost_at_us = $1
    WHERE closed_at_us IS NULL AND lost_at_us IS NULL AND heard_at_us < $2 AND writer <> $3
    RETURNING writer, host, pid, heard_at_us, rows_written, rows_dropped"""
_LIST_LOST = """SELECT writer, host, pid, heard_at_us, rows_written, rows_dropped FROM ledger_writers
    WHERE lost_at_us IS NOT NULL ORDER BY heard_at_us"""
_LIST_REFUSALS = """SELECT host, pid, heard_at_us, rows_refused FROM ledger_writers
    WHERE rows_refused > 0 ORDER BY heard_at_us"""


@dataclass(frozen=True, slots=True)
class LostWriter:
    """A process that ended without writing everything."""

    writer: int
    host: str
    pid: int
    #: Its last heartbeat, in microseconds since 1970.
    heartbeat_at_us: int
    rows_written: int
    rows_dropped: int

    def __str__(self) -> str:
        heartbeat = rfc3339(self.heartbeat_at_us / 1_000_000)
        return (
            f"the ledger writer of process {self.pid} on {self.host} ended without closing: it wrote "
            f"{self.rows_written} rows, and its last heartbeat was at {heartbeat}; rows of the last second before its "
            "end may be missing"
        )


@dataclass(frozen=True, slots=True)
class Refusal:
    """A process of which the database refused rows."""

    host: str
    pid: int
    #: When it last wrote its counts, in microseconds since 1970.
    heartbeat_at_us: int
    rows_refused: int

    def __str__(self) -> str:
        heartbeat = rfc3339(self.heartbeat_at_us / 1_000_000)
        return (
            f"the database refused {self.rows_refused} rows of process {self.pid} on {self.host}, counted until "
            f"{heartbeat}: these requests are in no total; its log has the reasons"
        )


class WriterEntry:
    """This process's row in the register. `clock` returns seconds since 1970."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self.id = secrets.randbits(62)
        self._database = database
        self._clock = clock

    async def register(self) -> None:
        """Enters this process, before its first row. Raises StorageUnavailable."""
        values = (self.id, socket.gethostname(), os.getpid(), self._now_us())
        await self._database.write(Statement(_REGISTER, values))

    def heartbeat(
        self, rows_written: int, rows_dropped: int, rows_refused: int, oldest: float | None = None
    ) -> Statement:
        """Returns the heartbeat, to be written with a batch or alone. rows_refused: part of rows_dropped.

        oldest: when the first request began, in seconds since 1970, that has no durable row yet; None: all have theirs.
        """
        now_us = self._now_us()
        complete_us = now_us if oldest is None else min(now_us, int(oldest * 1_000_000))
        return Statement(_HEARTBEAT, (now_us, rows_written, rows_dropped, rows_refused, complete_us, self.id))

    def closed(self) -> Statement:
        """Returns the statement that closes the entry, when every row was written or counted as dropped."""
        return Statement(_CLOSE, (self._now_us(), self.id))

    async def report_lost(self, lost_after_seconds: float = LOST_AFTER_SECONDS) -> list[LostWriter]:
        """Returns and logs the writers that were killed. One UPDATE marks them, so that one process reports each."""
        now_us = self._now_us()
        rows = await self._database.fetch(_FIND_LOST, now_us, now_us - int(lost_after_seconds * 1_000_000), self.id)
        lost = [LostWriter(*row) for row in rows]
        for writer in lost:
            log.error("%s", writer)
        return lost

    def _now_us(self) -> int:
        return int(self._clock() * 1_000_000)


async def refusals(database: Database) -> list[Refusal]:
    """Returns the writers that lost rows to a refusal, for `ledger summary`."""
    return [Refusal(*row) for row in await database.fetch(_LIST_REFUSALS)]


async def lost_writers(database: Database) -> list[LostWriter]:
    """Returns every writer that was ever lost, for `ledger summary`."""
    return [LostWriter(*row) for row in await database.fetch(_LIST_LOST)]


async def complete_until_us(database: Database) -> int | None:
    """Returns the moment before which every request that began, at any writer, has its row in the ledger.

    In microseconds since 1970; None where that is not known: nothing writes, or a program that does not say it.
    """
    writers, known, earliest = (await database.fetch(_COMPLETE))[0]
    until: int | None = earliest if writers and writers == known else None
    return until
