"""What a day cost, by part and by what it rests on, as it stands in the ledger; in both databases."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from tests.vllm_service.storage.ledger.test_ledger import RECORD
from tests.waiting import until
from vllm_service.domain.bill import DAY_US
from vllm_service.domain.cost_basis import BOOKED, EXPECTED, CostBasis
from vllm_service.domain.requests import RequestRecord
from vllm_service.domain.spend import ProviderSpend, RowSums, Spend, SpendLine, SpendPart
from vllm_service.storage.ledger.billed_days import BilledDay, BilledDayStore
from vllm_service.storage.ledger.lives import BookedDay, add_to_day
from vllm_service.storage.ledger.spend import SpendWatch, spend_by_day
from vllm_service.storage.ledger.writer import LedgerWriter
from vllm_service.storage.sql.database import Database

DAY = 20_759
BILLED = CostBasis.BILLED


def row(provider: str | None, cost: int | None, basis: CostBasis | None, *parts: int, **others: Any) -> RequestRecord:
    execution, cold, idle = parts or (None, None, None)
    known = {"execution_picousd": execution, "cold_start_picousd": cold, "idle_picousd": idle}
    fields = {"started_at": DAY * DAY_US / 1e6 + 3600, "baseline_picousd": None} | known | others
    return replace(RECORD, provider=provider, cost_picousd=cost, cost_basis=basis, **fields)


async def keep(database: Database, *rows: RequestRecord) -> None:
    writer = await LedgerWriter.open(database)
    for one in rows:
        writer.record(one)
    await writer.close()


def line(part: SpendPart, basis: CostBasis, picousd: int) -> SpendLine:
    return SpendLine(part, basis, picousd)


async def test_a_day_is_told_by_what_it_was_spent_on_and_what_that_rests_on(database: Database) -> None:
    await keep(
        database,
        row("own", 100, BOOKED, 10, 20, 70, baseline_picousd=500),
        row("own", 50, EXPECTED),
        row("own", None, None, outcome="completed"),
        row("hosted", 7, BOOKED, baseline_picousd=9),
        row("hosted", 3, None),
        row(None, None, None),
        row("hosted", 1, BOOKED, started_at=(DAY + 1) * DAY_US / 1e6),
    )
    await database.write(add_to_day(BookedDay("own", "ep", DAY, 1, 10, 20, 70, 0, 40)))
    hosted, own, tomorrow = await spend_by_day(database, DAY - 1, DAY + 1)
    assert (hosted.provider, hosted.day, hosted.baseline_picousd) == ("hosted", DAY, 9)
    assert set(hosted.lines) == {line(SpendPart.REQUESTS, EXPECTED, 3), line(SpendPart.REQUESTS, BOOKED, 7)}
    assert (own.provider, own.day, own.baseline_picousd, own.unpriced_requests) == ("own", DAY, 500, 1)
    assert set(own.lines) == {
        line(SpendPart.EXECUTION, BOOKED, 10),
        line(SpendPart.COLD_START, BOOKED, 20),
        line(SpendPart.IDLE, BOOKED, 70),
        line(SpendPart.REQUESTS, EXPECTED, 50),
        line(SpendPart.NO_REQUEST, BOOKED, 40),
    }
    assert (tomorrow.provider, tomorrow.day, tomorrow.lines) == (
        "hosted",
        DAY + 1,
        (line(SpendPart.REQUESTS, BOOKED, 1),),
    )


async def test_a_billed_days_lines_are_the_bills(database: Database) -> None:
    """Rows are scaled to 80; the bill says what no request caused, and what it is more than was seen."""
    await keep(database, row("own", 80, BILLED, 10, 20, 70))
    await database.write(add_to_day(BookedDay("own", "ep", DAY, 1, 10, 20, 70, 0, 40)))
    bill = BilledDay(
        provider="own",
        day=DAY,
        compute_picousd=120,
        disk_picousd=4,
        fee_picousd=0,
        volume_picousd=9,
        nobody_picousd=32,
        unexplained_picousd=8,
        fetched_at_us=1,
        applied_at_us=1,
    )
    await BilledDayStore(database).put(bill)
    (own,) = await spend_by_day(database, DAY, DAY)
    assert set(own.lines) == {
        line(SpendPart.EXECUTION, BILLED, 8),
        line(SpendPart.COLD_START, BILLED, 16),
        line(SpendPart.IDLE, BILLED, 56),
        line(SpendPart.NO_REQUEST, BILLED, 32),
        line(SpendPart.UNEXPLAINED, BILLED, 8),
        line(SpendPart.DISK, BILLED, 4),
        line(SpendPart.VOLUME, BILLED, 9),
    }
    assert Spend.of([own]).total_picousd == 120 + 4 + 9


@pytest.mark.parametrize("beyond", [5, -3])
@pytest.mark.parametrize("is_applied", [True, False])
async def test_what_a_bill_is_more_than_its_parts_is_in_the_sum(
    database: Database, beyond: int, is_applied: bool
) -> None:
    """A part that this version does not know, or that is missing from RunPod's sum."""
    await keep(database, row("own", 80, BILLED if is_applied else BOOKED, 10, 20, 50))
    bill = BilledDay(
        provider="own",
        day=DAY,
        compute_picousd=100,
        disk_picousd=4,
        beyond_parts_picousd=beyond,
        nobody_picousd=0 if is_applied else None,
        unexplained_picousd=20 if is_applied else None,
        fetched_at_us=1,
        applied_at_us=1 if is_applied else None,
    )
    await BilledDayStore(database).put(bill)
    (own,) = await spend_by_day(database, DAY, DAY)
    unexplained = beyond + (20 if is_applied else 0)
    assert line(SpendPart.UNEXPLAINED, BILLED, unexplained) in own.lines
    assert Spend.of([own]).total_picousd == 80 + 4 + unexplained


async def test_a_bill_that_was_not_applied_yet_leaves_what_was_booked(database: Database) -> None:
    await database.write(add_to_day(BookedDay("own", "ep", DAY, 1, 0, 0, 0, 0, 40)))
    await BilledDayStore(database).put(BilledDay(provider="own", day=DAY, disk_picousd=4, fetched_at_us=1))
    (own,) = await spend_by_day(database, DAY, DAY)
    assert set(own.lines) == {line(SpendPart.NO_REQUEST, BOOKED, 40), line(SpendPart.DISK, BILLED, 4)}


async def test_the_watch_shows_today_and_yesterday(database: Database) -> None:
    await keep(database, row("hosted", 7, BOOKED), row("hosted", 1, BOOKED, started_at=(DAY + 1) * DAY_US / 1e6))
    watch = SpendWatch(database, clock=lambda: (DAY + 1) * DAY_US / 1e6 + 1)
    await until(lambda: len(watch.status().days) == 2)
    assert [(one.day, one.spend.lines[0].picousd) for one in watch.status().days] == [("yesterday", 7), ("today", 1)]
    await watch.close()


def test_nine_tenths_of_idle_seconds_are_nine_tenths_of_the_workers_share() -> None:
    own = ProviderSpend("own", DAY, tuple(RowSums(BOOKED, 1000, 60, 40, 900).lines()), baseline_picousd=3000)
    hosted = ProviderSpend("hosted", DAY, (line(SpendPart.REQUESTS, BOOKED, 500),))
    spend = Spend.of([own, hosted])
    assert spend.worker_shares() == {SpendPart.EXECUTION: 0.06, SpendPart.COLD_START: 0.04, SpendPart.IDLE: 0.9}
    assert (spend.total_picousd, spend.saved_picousd) == (1500, 1500)
    assert spend.by_basis() == {BOOKED: 1500}


@pytest.mark.parametrize("days", [[], [ProviderSpend("own", DAY)]])
def test_a_day_without_dollars_has_no_shares_and_unknown_savings(days: list[ProviderSpend]) -> None:
    spend = Spend.of(days)
    assert (spend.worker_shares(), spend.total_picousd, spend.saved_picousd) == ({}, 0, None)
