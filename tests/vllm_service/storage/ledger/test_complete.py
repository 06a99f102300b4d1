"""Until when the ledger has every request's row, as its writers say it together."""

from __future__ import annotations

from msgspec import structs

from tests.vllm_service.storage.ledger.test_ledger import RECORD
from tests.waiting import until_seen
from vllm_service.storage.ledger.writer import LedgerWriter, LedgerWriterOptions
from vllm_service.storage.ledger.writers import WriterEntry, complete_until_us
from vllm_service.storage.sql.database import Database

T = 1_796_000_000
OFTEN = LedgerWriterOptions(flush_seconds=0.01, heartbeat_seconds=0.01, lost_after_seconds=3600.0)


class Clock:
    now = float(T)

    def __call__(self) -> float:
        return self.now


async def seconds(database: Database) -> float | None:
    until = await complete_until_us(database)
    return None if until is None else until / 10**6 - T


async def test_the_oldest_request_of_any_writer_holds_it_until_its_row_is_there(database: Database) -> None:
    clock = Clock()
    ledger = await LedgerWriter.open(database, OFTEN, clock)
    other = await LedgerWriter.open(database, OFTEN, clock)
    ledger.in_flight |= {1: T + 3.0, 2: T + 5.0}
    other.in_flight[1] = T + 4.0
    clock.now = T + 60.0

    async def becomes(wanted: float) -> None:
        async def look() -> bool:
            ledger.record(structs.replace(RECORD, started_at=clock.now))  # a batch, and a heartbeat with it
            return await seconds(database) == wanted

        await until_seen(look)

    await becomes(3.0)
    ledger.record(structs.replace(RECORD, started_at=T + 3.0))
    del ledger.in_flight[1]
    await becomes(4.0)
    del other.in_flight[1]
    await other.close()
    await becomes(5.0)
    del ledger.in_flight[2]
    await becomes(60.0)
    await ledger.close()
    assert await seconds(database) is None


async def test_writers_that_were_killed_are_not_waited_for_and_old_programs_say_nothing(database: Database) -> None:
    clock = Clock()
    killed, lives = WriterEntry(database, clock), WriterEntry(database, clock)
    await killed.register()
    await lives.register()
    clock.now += 40.0
    await database.write(lives.heartbeat(0, 0, 0))
    assert await seconds(database) == 0.0
    await lives.report_lost()
    assert await seconds(database) == 40.0
    clock.now += 5.0
    await database.write(killed.heartbeat(0, 0, 0, oldest=T + 30.0))  # it was only slow
    assert await seconds(database) == 30.0
    old = "UPDATE ledger_writers SET complete_until_us = NULL WHERE writer = $1 RETURNING writer"
    await database.fetch(old, lives.id)
    assert await seconds(database) is None
