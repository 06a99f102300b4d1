"""One process at a time holds the lease, without any clock compared, and a late holder writes nothing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from tests.vllm_service.storage.faults import FaultyDatabase
from vllm_service.errors import StorageUnavailable
from vllm_service.storage.ledger.lease import DatabaseLease, LeaseLost
from vllm_service.storage.sql.database import Database, RowsRefused, Statement


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def lease(database: Database, holder: str, clock: Clock | None = None) -> DatabaseLease:
    return DatabaseLease(database, "work", holder, lease_seconds=10.0, clock=clock or Clock())


def written(text: str) -> Statement:
    return Statement("INSERT INTO installation_secrets (name, secret) VALUES ($1, $2)", (text, text))


async def names(database: Database) -> list[str]:
    return [name for (name,) in await database.fetch("SELECT name FROM installation_secrets ORDER BY name")]


async def test_the_first_has_it_until_it_has_stood_still_by_the_others_clock(database: Database) -> None:
    clock = Clock(5000.0)
    first, second = lease(database, "a"), lease(database, "b", clock)
    assert await first.held()
    assert not await second.held()
    clock.now += 9.9
    assert await first.held()
    assert not await second.held()  # it has moved
    clock.now += 9.9
    assert not await second.held()
    clock.now += 0.2
    assert await second.held()
    assert not await first.held()
    assert (first.is_held, second.is_held) == (False, True)


async def test_of_many_that_would_take_it_one_does(database: Database) -> None:
    await lease(database, "gone").held()
    clock = Clock()
    others = [lease(database, str(number), clock) for number in range(8)]
    assert not any([await other.held() for other in others])
    clock.now = 11.0
    assert sum(await asyncio.gather(*(other.held() for other in others))) == 1


async def test_who_gives_it_back_hands_it_over_at_once(database: Database) -> None:
    first, second = lease(database, "a"), lease(database, "b")
    assert await first.held()
    assert not await second.held()
    await first.release()
    assert await second.held()
    await first.release()  # nothing to give
    assert await second.held()


async def test_a_late_holder_writes_nothing_of_its_transaction(database: Database) -> None:
    clock = Clock()
    late, second = lease(database, "a"), lease(database, "b", clock)
    assert await late.held()
    await late.write(written("1"), written("2"))
    await second.held()
    clock.now = 11.0
    assert await second.held()
    with pytest.raises(LeaseLost, match="another process"):
        await late.write(written("3"), written("4"))
    with pytest.raises(LeaseLost, match="does not hold"):
        await late.write(written("5"))
    await second.write(written("6"))
    assert await names(database) == ["1", "2", "6"]


async def test_values_that_are_refused_are_no_lost_lease(database: Database) -> None:
    holder = lease(database, "a")
    assert await holder.held()
    await holder.write(written("1"))
    with pytest.raises(RowsRefused) as refused:
        await holder.write(written("2"), written("1"))
    assert not isinstance(refused.value, LeaseLost)
    assert await holder.held()
    assert await names(database) == ["1"]


async def test_a_database_that_is_away_changes_nothing(database: Database) -> None:
    faulty = FaultyDatabase(database)
    holder = lease(faulty, "a")
    assert await holder.held()
    faulty.is_away = True
    with pytest.raises(StorageUnavailable):
        await holder.held()
    assert holder.is_held
    faulty.is_away = False
    assert await holder.held()
