"""Lives are stored as they are seen, and what is booked of them only ever goes on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vllm_service.domain.worker_lives import Keeper, KnownBy, WorkerLife
from vllm_service.storage.ledger.cold_starts import ColdStart, cold_starts
from vllm_service.storage.ledger.lives import BookedDay, LifeStore, add_to_day, move, put
from vllm_service.storage.sql.database import Database, RowsRefused

T = 1_796_000_000_000_000
LIFE = WorkerLife(
    life_id="own/ep/w@1",
    provider="own",
    endpoint_id="ep",
    worker_id="w",
    started_at_us=T,
    known_by=KnownBy.WORKERS,
    last_seen_us=T + 5,
    gpu_type="NVIDIA L4",
    gpu_count=2,
    data_center="EU-1",
    picousd_per_microsecond=380,
    ready_at_us=T + 2,
    uncertain_us=1,
    running_spans=((T + 3, T + 4),),
    booked_until_us=T,
)
COUNTED = replace(
    LIFE, life_id="own/ep/unnamed@1", worker_id="unnamed", known_by=KnownBy.HEALTH, gpu_type=None, gpu_count=None,
    data_center=None, picousd_per_microsecond=None, ready_at_us=None, running_spans=(), started_at_us=T + 1,
    booked_until_us=T + 1,
)  # fmt: skip


async def test_a_life_comes_back_as_it_was_stored(database: Database) -> None:
    store = LifeStore(database)
    await database.write(put(LIFE), put(COUNTED))
    assert await store.unsettled() == [LIFE, COUNTED]
    stopped = replace(LIFE, stopped_at_us=T + 9, last_seen_us=T + 8, running_spans=())
    await database.write(put(stopped), put(stopped))
    assert await store.unsettled() == [stopped, COUNTED]


async def test_what_is_booked_goes_on_once_and_is_not_taken_back(database: Database) -> None:
    store = LifeStore(database)
    await database.write(put(LIFE))
    booked = replace(LIFE, booked_until_us=T + 4, booked_picousd=1520, keepers=(Keeper(7, T - 1),), running_spans=())
    await database.write(move(booked, T))
    with pytest.raises(RowsRefused):
        await database.write(put(COUNTED), move(replace(booked, booked_until_us=T + 5), T))
    assert await store.unsettled() == [booked]
    await database.write(put(replace(LIFE, started_at_us=T - 9, booked_until_us=T - 9, running_spans=())))
    assert await store.unsettled() == [booked]
    assert await store.booked_until("own") == T + 4
    await database.write(move(replace(booked, is_settled=True), T + 4))
    assert (await store.unsettled(), await store.booked_until("own")) == ([], None)


async def test_a_life_that_a_list_names_gets_its_start_before_anything_is_booked(database: Database) -> None:
    await database.write(put(COUNTED))
    named = replace(COUNTED, worker_id="w", started_at_us=T - 4, booked_until_us=T - 4)
    await database.write(put(named))
    assert await LifeStore(database).unsettled() == [named]


async def test_lives_are_found_by_their_time(database: Database) -> None:
    store = LifeStore(database)
    stopped = replace(COUNTED, stopped_at_us=T + 10, is_settled=True)
    await database.write(put(LIFE), put(stopped), put(replace(LIFE, life_id="other", provider="other")))
    assert await store.overlapping("own", T + 9, T + 10) == [LIFE, stopped]
    assert await store.overlapping("own", T + 10, T + 11) == [LIFE]
    assert await store.overlapping("own", T - 1, T) == []
    assert await store.recently_settled("own", T + 9) == [stopped]
    assert await store.recently_settled("own", T + 10) == []


async def test_a_day_is_the_sum_of_what_is_added(database: Database) -> None:
    store = LifeStore(database)
    day = BookedDay("own", "ep", 20_000, 1, 2, 3, 4, 5, 2**60)
    await database.write(add_to_day(day), add_to_day(replace(day, day=20_001)))
    await database.write(add_to_day(replace(day, nobody_picousd=1)))
    assert await store.days("own", 20_000, 20_000) == [BookedDay("own", "ep", 20_000, 2, 4, 6, 8, 10, 2**60 + 1)]
    assert len(await store.days("own", 19_999, 20_001)) == 2


async def test_cold_starts_are_those_that_a_list_of_workers_showed(database: Database) -> None:
    later = replace(LIFE, life_id="own/ep/w@2", started_at_us=T + 9, ready_at_us=T + 30_000_009, gpu_type="NVIDIA A40")
    loading = replace(LIFE, life_id="own/ep/w@3", ready_at_us=None)
    elsewhere = replace(LIFE, life_id="own/ep2/w@1", endpoint_id="ep2")
    counted = replace(COUNTED, ready_at_us=T + 9, gpu_type="NVIDIA L4")
    await database.write(*(put(life) for life in (LIFE, later, loading, elsewhere, counted)))
    assert await cold_starts(database, "ep") == [ColdStart("NVIDIA A40", 30.0), ColdStart("NVIDIA L4", 2e-6)]
