"""Writes the ledger beside the hot path: rows wait in memory for a fraction of a second, then go in batches."""

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
from vllm_service.storage.ledger.rows import row_of, sanitised
from vllm_service.storage.ledger.writers import HEARTBEAT_SECONDS, LOST_AFTER_SECONDS, WriterEntry
from vllm_service.storage.sql.database import Database, Rows, RowsRefused, SchemaRefused, Statement, Value

log = logging.getLogger(__name__)
#: How many rows are made between two turns of the event loop: about 0.2 ms, in which no request is served.
_ROWS_AT_ONCE = 64
#: With more rows that wait, what is known of the oldest stays as it is: looking at all would hold the event loop.
_MOST_COMPARED = 4096
_FIRST_RETRY_SECONDS = 0.1
_CANCEL_SECONDS = 0.5
_LONGEST_RETRY_SECONDS = 2.0
Row = tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class LedgerWriterOptions:
    """The writer's times and bounds."""

    #: How long a row may wait for others to share a transaction with.
    flush_seconds: float = 0.2
    #: The most rows of one transaction.
    batch_rows: int = 1024
    #: The most rows in memory while the database is away, about 0.5 kB each.
    max_waiting_rows: int = 100_000
    #: How long `close` waits for a database that is away: less than the supervisor waits for the process.
    close_seconds: float = 10.0
    heartbeat_seconds: float = HEARTBEAT_SECONDS
    #: After so long without a heartbeat, another process counts as killed.
    lost_after_seconds: float = LOST_AFTER_SECONDS


class LedgerWriter:
    """Implements protocol.Ledger, for one event loop. Made by `open`.

    A batch is one transaction. While the database is away or lacks a column, rows wait, at most `max_waiting_rows`;
    further ones are dropped and counted. A row that the database will never accept is sanitised; if that does not
    help, it is dropped and counted. Every refusal activates the LedgerAlarm.
    """

    def __init__(self, database: Database, entry: WriterEntry, options: LedgerWriterOptions) -> None:
        self._database = database
        self._entry = entry
        self._options = options
        self._waiting: deque[RequestRecord] = deque()
        #: When the requests began that are under way, in seconds since 1970, by any key; the gateway keeps it.
        self.in_flight: dict[int, float] = {}
        # The number of the first waiting row. It moves on only when rows are durable. So a batch that is sent again
        # after a broken connection has the same numbers, and the table's UNIQUE (writer, sequence) ignores it.
        self._sequence = 0
        self._written_rows = 0
        self._oldest: float | None = None
        self._alarm = LedgerAlarm()
        self._failed_writes = 0
        self._is_failing = False
        self._something_waits = asyncio.Event()
        self._closing = asyncio.Event()
        self._next_heartbeat = 0.0
        self._task = asyncio.create_task(self._run(), name="ledger writer")

    @classmethod
    async def open(
        cls, database: Database, options: LedgerWriterOptions | None = None, clock: Callable[[], float] = time.time
    ) -> LedgerWriter:
        """Registers as one of the ledger's writers, and starts the task that writes. Raises StorageUnavailable."""
        entry = WriterEntry(database, clock)
        await entry.register()
        return cls(database, entry, options or LedgerWriterOptions())

    @property
    def dropped_rows(self) -> int:
        """Implements protocol.Ledger."""
        return self._alarm.dropped_rows

    @property
    def waiting_rows(self) -> int:
        """The number of rows that are queued and not yet durable."""
        return len(self._waiting)

    @property
    def written_rows(self) -> int:
        """The number of rows that are durable."""
        return self._written_rows

    def status(self) -> LedgerState:
        """Returns the state for health and metrics."""
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
        """Implements protocol.Ledger."""
        if len(self._waiting) >= self._options.max_waiting_rows or self._task.done():
            self._alarm.dropped(1, "its task has ended" if self._task.done() else "the queue is full")
            return
        self._waiting.append(record)
        self._something_waits.set()

    async def close(self) -> None:
        """Implements protocol.Ledger. Waits `close_seconds` for a database that is away; the rest counts as dropped."""
        self._closing.set()
        self._something_waits.set()
        await asyncio.wait({self._task}, timeout=self._options.close_seconds)
        if not self._task.done():
            self._alarm.dropped(len(self._waiting), "the database was away at the end")
            self._waiting.clear()
            # Not awaited to its end: a driver's transaction waits once more for a database that hangs.
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=_CANCEL_SECONDS)

    async def _run(self) -> None:
        is_last = False
        while not is_last:
            await self._until_due()
            # Read before the batch: every row that was recorded before `close` is then in the last batch.
            is_last = self._closing.is_set()
            await self._write_batch()
            while self._waiting and (is_last or len(self._waiting) >= self._options.batch_rows):
                await self._write_batch()
            if self._waiting:
                # These may have come before the event was cleared: without this they would wait for the next row.
                self._something_waits.set()
            await self._heartbeat()
        await self._retried(self._heartbeat_step(), self._entry.closed())

    async def _until_due(self) -> None:
        """Waits for the first row and then `flush_seconds` for others; at most until a heartbeat is due, or `close`."""
        try:
            await asyncio.wait_for(self._something_waits.wait(), self._options.heartbeat_seconds)
            await asyncio.wait_for(self._closing.wait(), self._options.flush_seconds)
        except TimeoutError:
            pass
        self._something_waits.clear()

    async def _write_batch(self) -> None:
        """Writes one batch. Its rows stay in the queue until they are durable, so that they count against its bound."""
        count = min(len(self._waiting), self._options.batch_rows)
        rows: list[Row] = []
        for start in range(0, count, _ROWS_AT_ONCE):
            end = min(start + _ROWS_AT_ONCE, count)
            for position, record in enumerate(islice(self._waiting, start, end), start):
                rows.extend(self._row(record, self._sequence + position))
            await asyncio.sleep(0)
        await self._write_rows(rows)
        self._sequence += count
        for _ in range(count):
            self._waiting.popleft()

    def _row(self, record: RequestRecord, sequence: int) -> list[Row]:
        try:
            return [row_of(record, self._entry.id, sequence)]
        except Exception as error:  # one record with a wrong type must not stop the ledger
            self._alarm.refused(1, f"a record could not be converted to a row ({type(error).__name__})")
            return []

    async def _write_rows(self, rows: Sequence[Row]) -> None:
        """Writes all rows that the database accepts.

        Halving finds the others: the drivers do not name the row at fault, and one bad row in a batch of 1,024 costs
        about 20 transactions instead of 1,024.
        """
        try:
            # The heartbeat's counts are written with the rows: the two are never at odds after a crash.
            await self._retried(Rows(REQUESTS, rows), self._heartbeat_step(len(rows)))
            self._written_rows += len(rows)
        except RowsRefused as error:
            if len(rows) > 1:
                await self._write_rows(rows[: len(rows) // 2])
                await self._write_rows(rows[len(rows) // 2 :])
            elif (row := sanitised(rows[0])) != rows[0]:
                await self._write_rows([row])
            else:
                self._alarm.refused(1, error.message)

    async def _retried(self, *steps: Statement | Rows) -> None:
        """Executes the steps, again and again until they are durable. Raises RowsRefused."""
        delay = 0.0
        while True:
            try:
                await self._database.write(*steps)
            except StorageUnavailable as error:
                if isinstance(error, SchemaRefused):
                    self._alarm.schema_refused(error.message, len(self._waiting))
                elif not delay:
                    log.warning("the ledger cannot be written, %d rows wait: %s", len(self._waiting), error.message)
                self._failed_writes += 1
                self._is_failing = True
                delay = min(max(2 * delay, _FIRST_RETRY_SECONDS), _LONGEST_RETRY_SECONDS)
                await asyncio.sleep(delay)
            else:
                self._is_failing = False
                self._alarm.schema_accepted()
                if delay:
                    log.warning("the ledger is written again, %d rows wait", len(self._waiting))
                return

    async def _heartbeat(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._next_heartbeat:
            return
        self._next_heartbeat = now + self._options.heartbeat_seconds
        try:
            await self._database.write(self._heartbeat_step())
            await self._entry.report_lost(self._options.lost_after_seconds)
            self._alarm.schema_accepted()
        except SchemaRefused as error:
            self._alarm.schema_refused(error.message, len(self._waiting))
        except ServiceError as error:
            log.warning("the ledger writer's heartbeat could not be written: %s", error.message)

    def _heartbeat_step(self, being_written: int = 0) -> Statement:
        """Returns the heartbeat, with the counts as they will be when the rows of the same transaction are durable."""
        alarm = self._alarm
        counts = (self._written_rows + being_written, alarm.dropped_rows, alarm.refused_rows)
        return self._entry.heartbeat(*counts, self._oldest_without_row())

    def _oldest_without_row(self) -> float | None:
        """Returns when the first request began that may have no durable row, in seconds since 1970."""
        under_way = next(iter(self.in_flight.values()), None)  # they are in the order in which they began
        if len(self._waiting) <= _MOST_COMPARED:
            waiting = min((record.started_at for record in self._waiting), default=None)
            begins = [begin for begin in (under_way, waiting) if begin is not None]
            self._oldest = min(begins, default=None)
        return self._oldest


def _ended_at(record: RequestRecord) -> float:
    return record.started_at + (record.total_ms or 0.0) / 1000
