"""Bills by day applied to the ledger: exact per day, repeatable, and the rest kept apart; in both databases."""

from __future__ import annotations

from dataclasses import replace as changed
from datetime import date

import pytest
from msgspec.structs import replace

from tests.vllm_service.storage.ledger.test_ledger import RECORD
from vllm_service.accounting.day_billing import LATEST_US, SETTLES_US, DayBilling
from vllm_service.domain.bill import DAY_US, BilledParts, BillPart
from vllm_service.domain.cost_basis import BOOKED, EXPECTED, CostBasis, CostParts
from vllm_service.domain.requests import RequestRecord
from vllm_service.domain.worker_lives import KnownBy, WorkerLife
from vllm_service.storage.ledger.billed_days import BilledDay, BilledDayStore
from vllm_service.storage.ledger.lives import BookedDay, LifeStore, add, add_to_day, put
from vllm_service.storage.ledger.reader import LedgerReader
from vllm_service.storage.ledger.writer import LedgerWriter
from vllm_service.storage.sql.database import Database

DAY = 20_759  # 2026-11-02
MONDAY, TUESDAY = date(2026, 11, 2), date(2026, 11, 3)
LATER_US = (DAY + 3) * DAY_US


def row(name: str, day: int, execution: int, idle: int = 0, provider: str = "own") -> RequestRecord:
    return replace(
        RECORD,
        request_id=name,
        started_at=(day * DAY_US) / 1e6 + 43_200,
        provider=provider,
        cost_picousd=execution + idle,
        cost_basis=BOOKED,
        execution_picousd=execution,
        cold_start_picousd=0,
        idle_picousd=idle,
    )


def booked(day: int, requests: int, earlier: int = 0, nobody: int = 0) -> BookedDay:
    return BookedDay("own", "ep", day, 1, requests, 0, earlier, earlier, nobody)


def billed(compute: int | None, **parts: int) -> BilledParts:
    sums = BilledParts()
    known = {BillPart.GPU: compute, BillPart.CPU: 0} | {BillPart(name): amount for name, amount in parts.items()}
    sums.add((compute or 0) + sum(parts.values()), known)
    return sums


async def keep(database: Database, *kept: RequestRecord | BookedDay | WorkerLife) -> None:
    writer = await LedgerWriter.open(database)
    for one in kept:
        if isinstance(one, RequestRecord):
            writer.record(one)
        else:
            await database.write(add_to_day(one) if isinstance(one, BookedDay) else put(one))
    await writer.close()


def billing_of(database: Database) -> DayBilling:
    return DayBilling("own", BilledDayStore(database), LifeStore(database))


async def costs(database: Database) -> dict[str, tuple[int | None, CostBasis | None]]:
    rows = [record async for _, record in LedgerReader(database).records()]
    return {record.request_id: (record.cost_picousd, record.cost_basis) for record in rows}


async def test_a_days_bill_scales_its_rows_and_keeps_the_other_parts_as_lines(database: Database) -> None:
    await keep(
        database,
        row("a", DAY, 300, 300),
        row("b", DAY, 100),
        row("hosted", DAY, 7, provider="hosted"),
        row("tomorrow", DAY + 1, 50),
        booked(DAY, 700, nobody=300),
    )
    (applied,) = await billing_of(database).apply({MONDAY: billed(500, disk=40, fee=9, volume=70)}, LATER_US)
    assert applied.has_changed
    assert await costs(database) == {
        "a": (300, CostBasis.BILLED),
        "b": (50, CostBasis.BILLED),
        "hosted": (7, BOOKED),
        "tomorrow": (50, BOOKED),
    }
    (stored,) = await BilledDayStore(database).days(DAY, DAY)
    assert stored == BilledDay(
        provider="own",
        day=DAY,
        gpu_picousd=500,
        cpu_picousd=0,
        disk_picousd=40,
        fee_picousd=9,
        volume_picousd=70,
        compute_picousd=500,
        beyond_parts_picousd=0,
        seen_picousd=1000,
        requests_picousd=350,
        earlier_picousd=0,
        nobody_picousd=150,
        unexplained_picousd=0,
        fetched_at_us=LATER_US,
        applied_at_us=LATER_US,
    )


async def test_what_the_bill_is_more_than_was_seen_is_no_requests(database: Database) -> None:
    await keep(database, row("a", DAY, 600), booked(DAY, 600, nobody=400))
    (applied,) = await billing_of(database).apply({MONDAY: billed(1500)}, LATER_US)
    assert (applied.day.nobody_picousd, applied.day.unexplained_picousd) == (400, 500)
    assert await costs(database) == {"a": (600, CostBasis.BILLED)}


async def test_the_same_bill_again_changes_nothing_and_another_one_is_applied_from_the_booked_parts(
    database: Database,
) -> None:
    await keep(database, row("a", DAY, 300), row("b", DAY, 100), booked(DAY, 400))
    billing = billing_of(database)
    for compute, a, has_changed in ((403, 302, True), (403, 302, False), (200, 150, True), (400, 300, True)):
        (applied,) = await billing.apply({MONDAY: billed(compute)}, LATER_US)
        assert applied.has_changed is has_changed
        assert (await costs(database))["a"] == (a, CostBasis.BILLED)
    assert sum(cost or 0 for cost, _ in (await costs(database)).values()) == 400


async def test_idle_seconds_after_midnight_are_paid_by_the_request_of_the_day_before_at_their_own_days_scale(
    database: Database,
) -> None:
    await keep(
        database,
        row("late", DAY, 100, 60),  # 20 of it after midnight
        row("next", DAY + 1, 80),
        booked(DAY, 140),
        booked(DAY + 1, 80, earlier=20),
    )
    billing = billing_of(database)
    await billing.apply({MONDAY: billed(70)}, LATER_US)
    assert (await costs(database))["late"] == (90, CostBasis.BILLED)  # 140 at half, and 20 that are not billed yet
    await billing.apply({TUESDAY: billed(50)}, LATER_US)
    assert await costs(database) == {"late": (80, CostBasis.BILLED), "next": (40, CostBasis.BILLED)}


async def test_a_worker_that_idles_for_days_is_paid_by_its_last_request(database: Database) -> None:
    await keep(
        database,
        row("last", DAY, 100, 200),
        booked(DAY, 100),
        booked(DAY + 1, 0, earlier=100),
        booked(DAY + 2, 0, earlier=100),
    )
    bill = {date(2026, 11, day): billed(50) for day in (2, 3, 4)}
    await billing_of(database).apply(bill, LATER_US + SETTLES_US)
    assert await costs(database) == {"last": (150, CostBasis.BILLED)}


async def test_a_billed_request_goes_on_to_pay_for_days_that_are_not_billed_yet(database: Database) -> None:
    """A worker idles on after midnight: its seconds are in a figure when they are booked, not when their bill comes."""
    await keep(database, row("last", DAY, 100), booked(DAY, 100))
    billing = billing_of(database)
    await billing.apply({MONDAY: billed(80)}, LATER_US)
    ((row_id, _),) = [found async for found in LedgerReader(database).records()]
    for _ in range(2):
        step = add({row_id: CostParts(idle_picousd=20)}, DAY + 1)
        await database.write(*step, add_to_day(booked(DAY + 1, 0, earlier=20)))
    assert await costs(database) == {"last": (120, CostBasis.BILLED)}
    await billing.apply({MONDAY: billed(80)}, LATER_US)
    assert await costs(database) == {"last": (120, CostBasis.BILLED)}
    await billing.apply({TUESDAY: billed(30)}, LATER_US)
    assert await costs(database) == {"last": (110, CostBasis.BILLED)}
    # Seconds of a billed day that come late change nothing before its bill is applied again, from all of them.
    await database.write(*add({row_id: CostParts(idle_picousd=10)}, DAY), add_to_day(booked(DAY, 10)))
    assert await costs(database) == {"last": (110, CostBasis.BILLED)}
    await billing.apply({MONDAY: billed(80)}, LATER_US)
    assert await costs(database) == {"last": (110, CostBasis.BILLED)}


async def test_what_rows_would_pay_that_are_deleted_is_no_requests(database: Database) -> None:
    await keep(database, row("next", DAY + 1, 80), booked(DAY + 1, 80, earlier=20))
    (applied,) = await billing_of(database).apply({TUESDAY: billed(50)}, LATER_US)
    assert (applied.day.requests_picousd, applied.day.earlier_picousd, applied.day.nobody_picousd) == (40, 0, 10)
    assert await costs(database) == {"next": (40, CostBasis.BILLED)}


async def test_a_request_whose_worker_was_not_seen_pays_what_was_expected(database: Database) -> None:
    expected = replace(
        row("unseen", DAY, 0),
        cost_picousd=30,
        cost_basis=EXPECTED,
        **dict.fromkeys(PARTS),
    )
    await keep(database, expected, row("seen", DAY, 70), booked(DAY, 70))
    billing = billing_of(database)
    for has_changed in (True, False):
        (applied,) = await billing.apply({MONDAY: billed(200)}, LATER_US)
        assert (applied.has_changed, applied.day.seen_picousd, applied.day.unexplained_picousd) == (
            has_changed,
            100,
            100,
        )
        assert await costs(database) == {"unseen": (30, CostBasis.BILLED), "seen": (70, CostBasis.BILLED)}


PARTS = ("execution_picousd", "cold_start_picousd", "idle_picousd")
LIFE = WorkerLife(
    life_id="w",
    provider="own",
    endpoint_id="ep",
    worker_id="w",
    started_at_us=DAY * DAY_US,
    known_by=KnownBy.WORKERS,
    last_seen_us=DAY * DAY_US,
    booked_until_us=DAY * DAY_US,
)


@pytest.mark.parametrize(
    ("booked_until_us", "now_us", "is_applied"),
    [
        pytest.param((DAY + 1) * DAY_US, (DAY + 1) * DAY_US + SETTLES_US, True, id="over and booked"),
        pytest.param((DAY + 1) * DAY_US, (DAY + 1) * DAY_US + SETTLES_US - 1, False, id="just over"),
        pytest.param((DAY + 1) * DAY_US, DAY * DAY_US, False, id="not over"),
        pytest.param((DAY + 1) * DAY_US - 1, (DAY + 1) * DAY_US + SETTLES_US, False, id="not booked to its end"),
        pytest.param(DAY * DAY_US, (DAY + 1) * DAY_US + LATEST_US, True, id="never to be booked"),
    ],
)
async def test_a_day_is_applied_when_it_is_over_and_booked(
    database: Database, booked_until_us: int, now_us: int, is_applied: bool
) -> None:
    await keep(database, row("a", DAY, 100), booked(DAY, 100), changed(LIFE, booked_until_us=booked_until_us))
    (found,) = await billing_of(database).apply({MONDAY: billed(90)}, now_us)
    assert found.has_changed is is_applied
    assert await costs(database) == {"a": (90, CostBasis.BILLED) if is_applied else (100, BOOKED)}
    (stored,) = await BilledDayStore(database).days(DAY, DAY)
    assert (stored.gpu_picousd, stored.applied_at_us) == (90, now_us if is_applied else None)


async def test_a_day_waits_for_a_request_that_is_booked_in_part(database: Database) -> None:
    """It ran over midnight: the seconds of its day are booked, and the others are still to come."""
    await keep(database, replace(row("long", DAY, 100), cost_picousd=30, cost_basis=EXPECTED), booked(DAY, 100))
    billing = billing_of(database)
    (found,) = await billing.apply({MONDAY: billed(90)}, (DAY + 1) * DAY_US + SETTLES_US)
    assert (found.has_changed, await costs(database)) == (False, {"long": (30, EXPECTED)})
    (found,) = await billing.apply({MONDAY: billed(90)}, (DAY + 1) * DAY_US + LATEST_US)
    assert (found.has_changed, await costs(database)) == (True, {"long": (90, CostBasis.BILLED)})


async def test_an_unknown_amount_is_stored_as_unknown_and_applied_to_nothing(database: Database) -> None:
    await keep(database, row("a", DAY, 100), booked(DAY, 100))
    (found,) = await billing_of(database).apply({MONDAY: billed(None, disk=5)}, LATER_US)
    assert (found.has_changed, found.day.compute_picousd, found.day.disk_picousd) == (False, None, 5)
    assert await costs(database) == {"a": (100, BOOKED)}


@pytest.mark.parametrize("absurd", [10**19, 10**27, -(10**19)])
async def test_a_day_of_millions_of_dollars_is_unknown_and_stops_no_other_day(database: Database, absurd: int) -> None:
    await keep(database, row("a", DAY, 100), row("b", DAY + 1, 50), booked(DAY, 100), booked(DAY + 1, 50))
    bill = {MONDAY: billed(absurd, disk=5), TUESDAY: billed(40)}
    first, second = await billing_of(database).apply(bill, LATER_US)
    assert (first.has_changed, first.day.compute_picousd, first.day.disk_picousd) == (False, None, 5)
    assert second.has_changed
    assert await costs(database) == {"a": (100, BOOKED), "b": (40, CostBasis.BILLED)}


async def test_a_bill_of_volumes_alone_adds_to_what_is_known(database: Database) -> None:
    await keep(database, row("a", DAY, 100), booked(DAY, 100))
    volumes = BilledParts()
    volumes.add(7, {BillPart.VOLUME: 7})
    billing = billing_of(database)
    await billing.apply({MONDAY: billed(80)}, LATER_US)
    (found,) = await billing.apply({MONDAY: volumes}, LATER_US)
    assert (found.has_changed, found.day.compute_picousd, found.day.volume_picousd) == (False, 80, 7)
    assert await billing.apply({}, LATER_US) == []


async def test_many_rows_are_billed_to_the_last_unit(database: Database) -> None:
    await keep(database, *(row(str(number), DAY, number % 7) for number in range(2500)), booked(DAY, 7497))
    await billing_of(database).apply({MONDAY: billed(7001)}, LATER_US)
    assert sum(cost or 0 for cost, _ in (await costs(database)).values()) == 7001
