"""Writes the ledger off the hot path: rows wait in memory for a fraction of a second and go in batches, each once."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from vllm_service.domain.requests import RequestRecord
from vllm_service.domain.status import LedgerState
from vllm_service.errors import ServiceError, StorageUnavailable
from vllm_service.storage.ledger.alarm import LedgerAlarm
from vllm_service.storage.ledger.columns import REQUESTS
from vllm_service.storage.ledger.rows import mended, row_of
from vllm_service.storage.ledger.writers import HEARTBEAT_SECONDS, SILENT_SECONDS, WriterEntry
from vllm_service.storage.sql.database import Database, Rows, RowsRefused, SchemaRefused, Statement, Value

log = logging.getLogger(__name__)
_ROWS_AT_ONCE = 64  # between two turns of the event loop: about 0.2 ms
_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 0.1, 2.0
Row = tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class LedgerPace:
    """flush_seconds: how long a row may wait for others. max_waiting_rows: while the database is away, 0.5 kB each.

    close_seconds: how long `close` waits for a database that is away. The rest: see ledger_writers.
    """

    flush_seconds: float = 0.2
    batch_rows: int = 1024
    max_waiting_rows: int = 100_000
    close_seconds: float = 30.0
    heartbeat_seconds: float = HEARTBEAT_SECONDS
    silent_seconds: float = SILENT_SECONDS


class LedgerWriter:
    """Implements protocol.Ledger, for one event loop. Opened by `open`.

    A batch is one transaction. While the database is away, or does not know a column, rows wait, at most
    `max_waiting_rows`; beyond that new ones are dropped and counted. A row that the database will never take is
    mended, else dropped and counted. What the database refuses is an alarm: see LedgerAlarm.
    """

    def __init__(self, database: Database, entry: WriterEntry, pace: LedgerPace) -> None:
        self._database = database
        self._entry = entry
        self._pace = pace
        self._waiting: deque[RequestRecord] = deque()
        self._sequence = 0
        self._written_rows = 0
        self._alarm = LedgerAlarm()
        self._failed_writes = 0
        self._is_failing = False
        self._something_waits = asyncio.Event()
        self._closing = asyncio.Event()
        self._next_heartbeat = 0.0
        self._task = asyncio.create_task(self._run(), name="ledger writer")

    @classmethod
    async def open(
        cls, database: Database, pace: LedgerPace | None = None, clock: Callable[[], float] = time.time
    ) -> LedgerWriter:
        """Registers among the ledger's writers and begins; StorageUnavailable."""
        entry = WriterEntry(database, clock)
        await entry.register()
        return cls(database, entry, pace or LedgerPace())

    @property
    def dropped_rows(self) -> int:
        """See protocol.Ledger."""
        return self._alarm.dropped_rows

    @property
    def waiting_rows(self) -> int:
        """Taken and not yet durable."""
        return len(self._waiting)

    @property
    def written_rows(self) -> int:
        """Durable."""
        return self._written_rows

    def status(self) -> LedgerState:
        """Returns what health and metrics show."""
        waiting = self._waiting
        oldest = time.time() - _ended_at(waiting[0]) if waiting else None
        return LedgerState(
            queued=len(waiting),
            written=self._written_rows,
            failed_writes=self._failed_writes,
            is_failing=self._is_failing,
            oldest_queued_seconds=oldest,
            dropped=self._alarm.dropped_rows,
            refused=self._alarm.refused_rows,
            refusal=self._alarm.reason,
        )

    def record(self, record: RequestRecord) -> None:
        """See protocol.Ledger."""
        if len(self._waiting) >= self._pace.max_waiting_rows or self._task.done():
            self._alarm.dropped(1, "it has ended" if self._task.done() else "the queue is full")
            return
        self._waiting.append(record)
        self._something_waits.set()

    async def close(self) -> None:
        """See protocol.Ledger. With the database away, waits `close_seconds`; what is left then counts as dropped."""
        self._closing.set()
        self._something_waits.set()
        try:
            await asyncio.wait_for(self._task, self._pace.close_seconds)
        except TimeoutError:
            self._alarm.dropped(len(self._waiting), "the database was away at the end")
            self._waiting.clear()

    async def _run(self) -> None:
        is_last = False
        while not is_last:
            await self._until_due()
            is_last = self._closing.is_set()
            await self._write_batch()
            while self._waiting and (is_last or len(self._waiting) >= self._pace.batch_rows):
                await self._write_batch()
            if self._waiting:
                self._something_waits.set()
            await self._heartbeat()
        await self._retried(self._heard(), self._entry.signed_off())

    async def _until_due(self) -> None:
        """A row waits and others had time to join it, or a heartbeat is due, or the end has come."""
        try:
            await asyncio.wait_for(self._something_waits.wait(), self._pace.heartbeat_seconds)
            await asyncio.wait_for(self._closing.wait(), self._pace.flush_seconds)
        except TimeoutError:
            pass
        self._something_waits.clear()

    async def _write_batch(self) -> None:
        """The rows stay in the queue until they are durable, so that they count against its bound."""
        count = min(len(self._waiting), self._pace.batch_rows)
        rows: list[Row] = []
        for start in range(0, count, _ROWS_AT_ONCE):
            end = min(start + _ROWS_AT_ONCE, count)
            for place, record in enumerate(islice(self._waiting, start, end), start):
                rows.extend(self._row(record, self._sequence + place))
            await asyncio.sleep(0)
        await self._write_rows(rows)
        self._sequence += count
        for _ in range(count):
            self._waiting.popleft()

    def _row(self, record: RequestRecord, sequence: int) -> list[Row]:
        try:
            return [row_of(record, self._entry.id, sequence)]
        except Exception as error:
            self._alarm.refused(1, f"no row can be made of it ({type(error).__name__})")
            return []

    async def _write_rows(self, rows: Sequence[Row]) -> None:
        """All rows that the database takes; the others are found by halving."""
        try:
            await self._retried(Rows(REQUESTS, rows), self._heard(len(rows)))
            self._written_rows += len(rows)
        except RowsRefused as error:
            if len(rows) > 1:
                await self._write_rows(rows[: len(rows) // 2])
                await self._write_rows(rows[len(rows) // 2 :])
            elif (row := mended(rows[0])) != rows[0]:
                await self._write_rows([row])
            else:
                self._alarm.refused(1, error.message)

    async def _retried(self, *steps: Statement | Rows) -> None:
        """Until it is durable; RowsRefused."""
        delay = 0.0
        while True:
            try:
                await self._database.write(*steps)
            except StorageUnavailable as error:
                if isinstance(error, SchemaRefused):
                    self._alarm.schema_refused(error.message, len(self._waiting))
                elif not delay:
                    log.warning("the ledger waits, with %d rows: %s", len(self._waiting), error.message)
                self._failed_writes += 1
                self._is_failing = True
                delay = min(max(2 * delay, _FIRST_RETRY_SECONDS), _LONGEST_RETRY_SECONDS)
                await asyncio.sleep(delay)
            else:
                self._is_failing = False
                self._alarm.schema_taken()
                if delay:
                    log.warning("the ledger writes again, with %d rows waiting", len(self._waiting))
                return

    async def _heartbeat(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._next_heartbeat:
            return
        self._next_heartbeat = now + self._pace.heartbeat_seconds
        try:
            await self._database.write(self._heard())
            await self._entry.report_lost(self._pace.silent_seconds)
            self._alarm.schema_taken()
        except SchemaRefused as error:
            self._alarm.schema_refused(error.message, len(self._waiting))
        except ServiceError as error:
            log.warning("the ledger's writer could not say that it lives: %s", error.message)

    def _heard(self, being_written: int = 0) -> Statement:
        """A sign of life, with the counts as they are once these rows are durable."""
        alarm = self._alarm
        return self._entry.heard(self._written_rows + being_written, alarm.dropped_rows, alarm.refused_rows)


def _ended_at(record: RequestRecord) -> float:
    return record.started_at + (record.total_ms or 0.0) / 1000
