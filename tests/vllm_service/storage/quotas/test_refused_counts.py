"""Counts that a store refuses: they hurt the organisation that they belong to, and no other."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from redis import exceptions

from tests.servers import RedisServer
from tests.vllm_service.storage.conftest import Backend
from tests.vllm_service.storage.use import used
from tests.waiting import until
from vllm_service.domain.keys import ApiKey, OrganisationLimits, Tier
from vllm_service.domain.quotas import MOST_OF_A_PERIOD, MOST_OF_ONE_REQUEST, utc_day, utc_month
from vllm_service.errors import StorageRefused
from vllm_service.storage.open import open_database, open_storage
from vllm_service.storage.protocol import Quotas
from vllm_service.storage.quotas.counters import Periods
from vllm_service.storage.quotas.memory import MemoryQuotas
from vllm_service.storage.quotas.redis import RedisQuotas
from vllm_service.storage.quotas.saved import QuotaSaver, load
from vllm_service.storage.redis_errors import is_refusal
from vllm_service.storage.redis_link import RedisLink
from vllm_service.storage.redis_pipeline import PipelineBounds
from vllm_service.storage.redis_replies import RedisSilent

NOON = 1_798_718_400.0
DAY, MONTH = utc_day(NOON), utc_month(utc_day(NOON))
BAD = ApiKey("k-bad", "bad", Tier.ENTERPRISE, OrganisationLimits(None, None, None, None))
GOOD = replace(BAD, id="k-good", organisation="good")
#: No database takes this text.
UNWRITABLE = "\ud800"


@pytest.mark.parametrize("amount", [2**63, 10**30, -1, -(10**30)])
async def test_no_amount_of_one_request_is_beyond_what_a_store_can_count(quotas: Quotas, amount: int) -> None:
    reservation = await quotas.reserve(BAD, None, amount, amount, NOON)
    await reservation.settle(amount, amount)
    other = await quotas.reserve(GOOD, None, 1, 1, NOON)
    await other.settle(7, 9)
    counted = await used(quotas, "bad", NOON)
    assert counted.tokens_this_month == counted.picousd_this_month == (MOST_OF_ONE_REQUEST if amount > 0 else 0)
    assert (await used(quotas, "good", NOON)).picousd_this_month == 9


async def test_what_redis_refuses_of_one_organisation_is_no_failure_for_the_others(redis_server: RedisServer) -> None:
    redis_server.empty()
    link = RedisLink(redis_server.url)
    quotas = RedisQuotas(link, uses_server_clock=False)
    begun = await quotas.reserve(BAD, None, 1, 1, NOON)
    await link.client.hset(f"vllm-service:org:bad:day:{DAY}", "picousd", "no number")
    with pytest.raises(StorageRefused):
        await quotas.reserve(BAD, None, 1, 1, NOON)
    assert not quotas.status().is_failing
    await begun.settle(5, 5)  # cannot be booked, which is logged, and nothing waits for ever
    assert quotas.waiting_ends == 0
    other = await quotas.reserve(GOOD, None, 1, 1, NOON)
    await other.settle(7, 9)
    assert (await used(quotas, "good", NOON)).picousd_this_month == 9
    await quotas.close()
    await link.close()


async def test_an_end_that_redis_refuses_does_not_keep_others_waiting(redis_server: RedisServer) -> None:
    redis_server.empty()
    link = RedisLink(redis_server.url, PipelineBounds(silence_seconds=0.2))
    quotas = RedisQuotas(link, uses_server_clock=False)
    first = await quotas.reserve(BAD, None, 1, 1, NOON)
    second = await quotas.reserve(GOOD, None, 1, 1, NOON)
    await link.client.hset(f"vllm-service:org:bad:day:{DAY}", "picousd", "no number")
    redis_server.hang()
    await first.settle(5, 5)
    await second.settle(7, 9)
    await until(lambda: quotas.waiting_ends == 2)
    redis_server.go_on()
    await until(lambda: quotas.waiting_ends == 0)
    assert (await used(quotas, "good", NOON)).picousd_this_month == 9
    await quotas.close()
    await link.close()


async def test_what_a_request_used_is_booked_although_its_caller_leaves_meanwhile(redis_server: RedisServer) -> None:
    redis_server.empty()
    link = RedisLink(redis_server.url)
    quotas = RedisQuotas(link, uses_server_clock=False)
    reservation = await quotas.reserve(GOOD, None, 100, 100, NOON)
    settling = asyncio.create_task(reservation.settle(7, 9))
    await asyncio.sleep(0)  # its first step: the command is on its way
    settling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await settling
    await quotas.close()
    assert (await used(quotas, "good", NOON)).picousd_this_month == 9
    await link.close()


@pytest.mark.parametrize(
    ("error", "is_refused"),
    [
        (exceptions.ResponseError("value is not an integer or out of range"), True),
        (exceptions.ResponseError("increment or decrement would overflow"), True),
        (exceptions.ResponseError("hash value is not an integer script: 0a, on @user_script:14."), True),
        (exceptions.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"), True),
        (exceptions.DataError("Invalid input of type: 'NoneType'"), True),
        (exceptions.ResponseError("MISCONF Redis is configured to save RDB snapshots"), False),
        (exceptions.ResponseError("BUSY Redis is busy running a script"), False),
        (exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'"), False),
        (exceptions.ResponseError("OOM command not allowed when used memory > 'maxmemory'. script: 0a"), False),
        (exceptions.ReadOnlyError("You can't write against a read only replica."), False),
        (exceptions.NoPermissionError("this user has no permissions"), False),
        (exceptions.MasterDownError("Link with MASTER is down"), False),
        (exceptions.BusyLoadingError("Redis is loading the dataset in memory"), False),
        (exceptions.AuthenticationError("invalid password"), False),
        (exceptions.ConnectionError("refused"), False),
        (exceptions.TimeoutError("too late"), False),
        (ConnectionResetError(), False),
    ],
)
def test_a_refusal_is_told_from_a_server_that_is_away(error: Exception, is_refused: bool) -> None:
    assert is_refusal(error) is is_refused


async def test_a_refusal_begins_no_rest_and_a_silence_does(redis_server: RedisServer) -> None:
    redis_server.empty()
    link = RedisLink(redis_server.url, PipelineBounds(silence_seconds=0.2))
    await link.client.set("text", "no number")
    with pytest.raises(StorageRefused):
        await link.call("INCR", "text")
    assert not link.pipeline.is_away
    assert await link.call("INCR", "number") == 1
    redis_server.hang()
    for _ in range(2):  # the second is not even sent
        with pytest.raises(RedisSilent):
            await link.call("INCR", "number")
    redis_server.go_on()
    await until(lambda: not link.pipeline.is_away)
    await link.close()


async def test_a_period_that_the_database_refuses_keeps_no_other_from_being_saved(backend: Backend) -> None:
    database = await open_database(backend.database_url, backend.data_dir)
    quotas = MemoryQuotas()
    saver = QuotaSaver(database, quotas.periods, save_seconds=3600)
    keys = [replace(GOOD, organisation=f"good-{number}") for number in range(5)]
    for key in (*keys[:3], replace(BAD, organisation=UNWRITABLE), *keys[3:]):
        await (await quotas.reserve(key, None, 1, 1, NOON)).settle(7, 9)
    await saver.save()
    saved = await load(database, NOON)
    assert {key[0]: counts for key, counts in saved.items() if key[1] == "month"} == {
        key.organisation: (1, 7, 9) for key in keys
    }
    await (await quotas.reserve(keys[0], None, 1, 1, NOON)).settle(7, 9)
    await saver.close()
    assert (await load(database, NOON))["good-0", "month", MONTH] == (2, 14, 18)
    await database.close()


async def test_a_sum_that_64_bits_do_not_hold_stops_and_stays_a_whole_number(backend: Backend) -> None:
    database = await open_database(backend.database_url, backend.data_dir)
    for _ in range(3):
        periods = Periods({})
        day, month = periods.at("bad", NOON)
        for period in (day, month):
            period.settle(MOST_OF_A_PERIOD, 2**70, 0, 0)
        saver = QuotaSaver(database, periods, save_seconds=3600)
        await saver.close()
    saved = await load(database, NOON)
    assert saved["bad", "month", MONTH] == (3, MOST_OF_A_PERIOD, MOST_OF_A_PERIOD)
    await database.close()


async def test_a_gateway_starts_with_such_counts_and_its_limits_hold(tmp_path: Path) -> None:
    async with open_storage(None, None, tmp_path) as storage:
        assert isinstance(storage.quotas, MemoryQuotas)
        await (await storage.quotas.reserve(BAD, None, 1, 1, NOON)).settle(10**30, 10**30)
    async with open_storage(None, None, tmp_path) as storage:
        reservation = await storage.quotas.reserve(GOOD, None, 1, 1, NOON)
        await reservation.settle(1, 1)
