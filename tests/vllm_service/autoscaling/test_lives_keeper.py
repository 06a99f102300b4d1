"""Worker seconds from looks to booked rows, in SQLite and Postgres: exact, once, by one replica at a time."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.servers import PostgresServer
from tests.vllm_service.autoscaling.lives_world import FINAL, SECOND, Lived, T, World, catalog
from tests.vllm_service.storage.faults import FaultyDatabase
from vllm_service.autoscaling.lives_keeper import KeeperSettings, LivesKeeper
from vllm_service.domain.requests import Outcome
from vllm_service.domain.worker_lives import KnownBy
from vllm_service.runpod.health import EndpointHealth
from vllm_service.storage.ledger.lease import DatabaseLease
from vllm_service.storage.ledger.lives import LifeStore
from vllm_service.storage.ledger.reader import LedgerReader
from vllm_service.storage.ledger.writers import WriterEntry
from vllm_service.storage.open import open_database
from vllm_service.storage.sql.database import Database


@pytest.fixture(params=["sqlite", "postgres"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    url = None
    if request.param == "postgres":
        postgres: PostgresServer = request.getfixturevalue("postgres_server")
        url = await postgres.emptied()
    database = await open_database(url, tmp_path)
    yield database
    await database.close()


async def test_a_cold_start_a_run_and_the_idle_tail_are_booked_to_the_request(database: Database) -> None:
    world = World(database)
    keeper = world.keeper("a")
    lives = [Lived(10, 31, 45)]
    await world.ran(10, 40)
    await world.pass_time(60, keeper, lives=lives)
    assert await world.booked() == {}
    await world.pass_time(140, keeper, lives=lives)
    assert await world.booked() == {"r1": (9.0, 21.0, 5.0)}
    assert await world.sums() == (35 * SECOND, 0, 35 * SECOND)
    state = keeper.status()
    assert (state.is_booking, state.is_failing, state.open_lives, state.dropped) == (True, False, 0, 0)
    assert state.booked_lag_seconds == pytest.approx(FINAL, abs=7)


async def test_what_others_and_no_request_caused_is_a_line_of_its_own(database: Database) -> None:
    world = World(database)
    lives = [Lived(10, 20, 100, others=(50, 90)), Lived(10, 20, 30, "v")]
    await world.ran(10, 40)
    await world.ran(10, 30, provider="hosted")
    await world.pass_time(240, world.keeper("a"), lives=lives)
    booked = await world.booked()
    assert booked.keys() == {"r1"}
    rows, nobody, cost = await world.sums()
    assert rows + nobody == cost
    # Looks two seconds apart see when the others began and ended.
    assert nobody / SECOND == pytest.approx(100 - 50, abs=2)


async def test_a_failed_request_pays_and_one_that_comes_too_late_costs_nothing_more(database: Database) -> None:
    world = World(database)
    keeper = world.keeper("a")
    lives = [Lived(10, 20, 45)]
    await world.ran(10, 40, outcome=Outcome.FAILED, cost_picousd=None)
    await world.pass_time(200, keeper, lives=lives)
    await world.ran(12, 40)
    await world.pass_time(230, keeper, lives=lives)
    assert await world.booked() == {"r1": (21.0, 9.0, 5.0), "r2": (0.0, 0.0, 0.0)}
    rows, _, cost = await world.sums()
    assert rows == cost


async def test_an_answer_from_a_worker_that_no_look_saw_implies_one(database: Database) -> None:
    world = World(database)
    keeper = world.keeper("a")
    await world.ran(10, 14)
    await world.ran(30, 31, outcome=Outcome.REJECTED, status=429)
    await world.pass_time(140, keeper, lives=[])
    assert await world.booked() == {"r1": (4.0, 0.0, 5.0), "r2": (0.0, 0.0, 0.0)}
    assert await world.sums() == (9 * SECOND, 0, 9 * SECOND)
    (life,) = await LifeStore(database).overlapping("own", 0, 2**62)
    assert (life.known_by, life.is_settled) == (KnownBy.REQUESTS, True)


async def test_counts_of_health_are_enough(database: Database) -> None:
    world = World(database)
    keeper = world.keeper("a")
    await world.ran(10, 40)
    for at in range(0, 200, 2):
        world.now = world.passed = float(at)
        states = {"initializing": int(11 <= at < 30), "idle": int(30 <= at < 45), "running": 0}
        keeper.observe("own", "ep", None, EndpointHealth({}, states), round((T + at) * 10**6))
        await keeper.round()
    assert await world.booked() == {"r1": (11.0, 18.0, 5.0)}


async def test_without_a_price_nothing_is_booked_and_with_one_all_is(database: Database) -> None:
    world = World(database, catalog(None))
    keeper = world.keeper("a")
    lives = [Lived(10, 31, 45)]
    await world.ran(10, 40)
    await world.pass_time(140, keeper, lives=lives)
    assert await world.booked() == {}
    world.catalog = catalog()
    await world.pass_time(160, keeper, lives=lives)
    assert await world.booked() == {"r1": (9.0, 21.0, 5.0)}


async def test_moments_are_final_when_no_request_from_before_is_under_way(database: Database) -> None:
    world = World(database)
    keeper = world.keeper("a")
    writer = WriterEntry(database, lambda: T + world.now)
    await writer.register()
    lives = [Lived(10, 31, 45)]
    await world.ran(10, 40)
    await world.pass_time(42, keeper, lives=lives)
    await database.write(writer.heartbeat(1, 0, 0, oldest=T + 41.5))
    await world.pass_time(60, keeper, lives=lives)
    assert await world.booked() == {"r1": (9.0, 21.0, 0.5)}
    await database.write(writer.heartbeat(1, 0, 0))
    await world.pass_time(66, keeper, lives=lives)
    assert await world.booked() == {"r1": (9.0, 21.0, 5.0)}
    assert await world.sums() == (35 * SECOND, 0, 35 * SECOND)


async def test_nothing_is_final_that_no_look_has_followed(database: Database) -> None:
    """A worker that is listed only now may have run what has ended since the last list."""
    world = World(database)
    keeper = world.keeper("a")
    writer = WriterEntry(database, lambda: T + world.now)
    await writer.register()
    await world.pass_time(8, keeper, lives=[])
    await world.ran(10, 14)
    world.now = world.passed = 30.0
    await database.write(writer.heartbeat(1, 0, 0))
    await keeper.round()
    assert await world.booked() == {}
    await world.pass_time(36, keeper, lives=[Lived(10, 12, 60)])
    assert (await world.booked()).keys() == {"r1"}
    (life,) = await LifeStore(database).overlapping("own", 0, 2**62)
    assert life.known_by is KnownBy.WORKERS


async def test_lives_without_a_price_do_not_pile_up_and_old_ones_are_pruned_with_the_rows(database: Database) -> None:
    world = World(database, catalog(None))
    keeper = world.keeper("a")
    await world.pass_time(60, keeper, lives=[Lived(10, 31, 45)])
    assert len(await LifeStore(database).unsettled()) == 1
    world.now += 86_400 + FINAL + 60
    await keeper.round()
    assert await LifeStore(database).unsettled() == []
    await LedgerReader(database).prune(T + 44)
    assert len(await LifeStore(database).overlapping("own", 0, 2**62)) == 1
    await LedgerReader(database).prune(T + 46)
    assert await LifeStore(database).overlapping("own", 0, 2**62) == []


async def test_rows_of_long_ago_that_nothing_booked_stay_as_they_are(database: Database) -> None:
    world = World(database)
    await world.ran(10, 40)
    world.now = 8 * 86_400.0
    await world.ran(world.now - 86_400, world.now - 86_390)
    await world.pass_time(world.now + 12, world.keeper("a"), lives=[])
    assert (await world.booked()).keys() == {"r2"}


async def test_two_replicas_book_once_and_the_second_goes_on_where_the_first_was_killed(database: Database) -> None:
    world = World(database)
    first, second = world.keeper("a"), world.keeper("b")
    lives = [Lived(10, 31, 205)]
    await world.ran(10, 40)
    await world.ran(100, 200)
    await world.pass_time(96, first, second, lives=lives)
    assert (first.status().is_booking, second.status().is_booking) == (True, False)
    assert second.status().waiting <= 61
    await world.pass_time(300, second, lives=lives)  # the first has been killed
    assert second.status().is_booking
    assert await world.booked() == {"r1": (9.0, 21.0, 60.0), "r2": (100.0, 0.0, 5.0)}
    assert await world.sums() == (195 * SECOND, 0, 195 * SECOND)
    await first.round()
    assert not first.status().is_booking


async def test_a_replica_that_stops_hands_over_at_once(database: Database) -> None:
    world = World(database)
    first, second = world.keeper("a"), world.keeper("b")
    lives = [Lived(1, 2, 20)]
    await world.pass_time(6, first, second, lives=lives)
    await first.close()
    await world.pass_time(12, second, lives=lives)
    assert second.status().open_lives == 1


@pytest.mark.parametrize("seed", range(3))
async def test_answers_of_the_database_that_get_lost_book_nothing_twice(database: Database, seed: int) -> None:
    chance = random.Random(seed)
    faulty = FaultyDatabase(database)
    world = World(database)
    keeper = world.keeper("a", faulty)
    lives = [Lived(10, 31, 205), Lived(50, 60, 120, "v"), Lived(210, 215, 290)]
    for start in range(10, 280, 9):
        await world.ran(start, start + chance.uniform(1, 20))
    while world.now < 420:
        faulty.lost_answers = chance.choice((0, 0, 1, 2))
        faulty.is_away = chance.random() < 0.2
        await world.pass_time(world.now + 6, keeper, lives=lives)
    faulty.is_away, faulty.lost_answers = False, 0
    await world.pass_time(world.now + 60, keeper, lives=lives)
    rows, nobody, cost = await world.sums()
    assert rows + nobody == cost
    billed = sum(life.stop - life.start for life in lives)
    # Stops and starts lie between two looks, and seconds are rounded up.
    assert cost / SECOND == pytest.approx(billed, abs=9)
    assert len(await world.booked()) == world.rows


async def test_a_database_that_is_away_for_long_costs_no_second_that_was_seen(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    faulty = FaultyDatabase(database)
    world = World(database)
    keeper = world.keeper("a", faulty)
    lives = [Lived(10, 31, 445)]
    await world.ran(10, 40)
    await world.pass_time(30, keeper, lives=lives)
    faulty.is_away = True
    await world.pass_time(460, keeper, lives=lives)
    assert keeper.status().is_failing
    assert keeper.status().waiting < 10
    assert caplog.text.count("cannot be booked now") == 1
    faulty.is_away = False
    await world.pass_time(560, keeper, lives=lives)
    assert await world.booked() == {"r1": (9.0, 21.0, 405.0)}
    assert caplog.text.count("are booked again") == 1


async def test_a_gateway_that_was_down_for_an_hour_knows_the_worker_that_lived_on_and_the_one_that_did_not(
    database: Database,
) -> None:
    world = World(database)
    lives = [Lived(10, 31, 36), Lived(10, 31, 4000, "v")]
    await world.ran(10, 35)
    await world.pass_time(34, world.keeper("a"), lives=lives)
    world.now += 3600
    world.passed += 3600
    await world.pass_time(4100, world.keeper("b"), lives=lives)
    rows, nobody, cost = await world.sums()
    assert rows + nobody == cost
    assert cost / SECOND == pytest.approx(26 + 3990, abs=6)


async def test_looks_that_nobody_follows_are_bounded_and_counted(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    lease = DatabaseLease(database, "lives", "a")
    settings = KeeperSettings(most_looks=100)
    keeper = LivesKeeper(LifeStore(database), lease, catalog, settings, lambda: T)
    for at in range(5000):
        keeper.observe("own", "ep", None, None, at)
    assert (keeper.status().waiting, keeper.status().dropped) == (100, 4900)
    assert caplog.text.count("looks at workers are dropped") == 5
