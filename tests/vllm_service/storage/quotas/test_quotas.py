"""What callers are told, what survives a restart, and what happens when Redis is away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tests.servers import RedisServer
from tests.vllm_service.storage.conftest import Backend
from tests.vllm_service.storage.use import OrganisationUse, used
from tests.waiting import until
from vllm_service.domain.keys import ApiKey, OrganisationLimits, Tier
from vllm_service.errors import RateLimited, StorageUnavailable
from vllm_service.storage.open import open_storage
from vllm_service.storage.protocol import Quotas
from vllm_service.storage.quotas.alone import ShareOfQuotas
from vllm_service.storage.quotas.memory import MemoryQuotas
from vllm_service.storage.quotas.redis import RedisQuotas
from vllm_service.storage.redis_link import RedisLink
from vllm_service.storage.redis_pipeline import PipelineBounds

NOON = 1_798_718_400.0  # 2026-12-31T12:00Z: day and month end in 12 hours
HALF_DAY = 43_200.0
KEY = ApiKey("k", "acme", limits=OrganisationLimits(concurrent_requests=None))


def limited(**limits: int | None) -> ApiKey:
    return replace(KEY, tier=Tier.ENTERPRISE, limits=replace(KEY.limits, **limits))


async def refused(
    quotas: Quotas, key: ApiKey, address: str | None = None, *, tokens: int = 1, picousd: int = 0, now: float = NOON
) -> RateLimited:
    with pytest.raises(RateLimited) as caught:
        await quotas.reserve(key, address, tokens, picousd, now)
    return caught.value


@pytest.mark.parametrize(("tier", "per_minute"), [(Tier.DEVELOPMENT, 100), (Tier.PRODUCTION, 1000)])
async def test_a_tier_admits_its_requests_a_minute_and_not_one_more(
    quotas: Quotas, tier: Tier, per_minute: int
) -> None:
    key = replace(KEY, tier=tier)
    for number in range(per_minute):
        await quotas.reserve(key, None, 1, 0, NOON + number / per_minute)
    error = await refused(quotas, key, now=NOON + 10)
    assert (error.details["limit"], error.details["allowed"]) == ("requests_per_minute", per_minute)
    assert error.retry_after_seconds == pytest.approx(51)
    await quotas.reserve(key, None, 1, 0, NOON + 61)


async def test_a_minute_is_over_when_its_whole_first_second_is(quotas: Quotas) -> None:
    for _ in range(100):
        await quotas.reserve(KEY, None, 1, 0, NOON + 0.5)
    assert (await refused(quotas, KEY, now=NOON + 60.999)).retry_after_seconds == pytest.approx(0.001)
    for _ in range(100):
        await quotas.reserve(KEY, None, 1, 0, NOON + 61)
    await refused(quotas, KEY, now=NOON + 61)


async def test_dollars_are_exact_beyond_what_a_double_holds(quotas: Quotas) -> None:
    """2**53 pico-dollars are $9,007."""
    key = limited(picousd_per_month=20_000 * 10**12)
    await (await quotas.reserve(key, None, 0, 9_000 * 10**12, NOON)).settle(0, 9_000 * 10**12 + 1)
    await refused(quotas, key, picousd=11_000 * 10**12)
    await quotas.reserve(key, None, 0, 11_000 * 10**12 - 2, NOON)
    await quotas.reserve(key, None, 0, 1, NOON)
    await refused(quotas, key, picousd=1)


async def test_fifty_a_second_from_one_address(quotas: Quotas) -> None:
    key = replace(KEY, tier=Tier.ENTERPRISE)
    for _ in range(50):
        await quotas.reserve(key, "192.0.2.1", 1, 0, NOON)
    error = await refused(quotas, key, "192.0.2.1")
    assert error.details["limit"] == "address_requests_per_second"
    assert error.retry_after_seconds == pytest.approx(1.05)
    await quotas.reserve(key, "192.0.2.2", 1, 0, NOON)
    await quotas.reserve(key, "192.0.2.1", 1, 0, NOON + 1.05)


@pytest.mark.parametrize(
    ("limits", "limit"),
    [
        ({"requests_per_day": 1}, "requests_per_day"),
        ({"tokens_per_day": 10}, "tokens_per_day"),
        ({"tokens_per_month": 10}, "tokens_per_month"),
        ({"picousd_per_month": 10}, "usd_per_month"),
    ],
)
async def test_a_used_up_quota_says_when_its_period_ends(quotas: Quotas, limits: dict[str, int], limit: str) -> None:
    key = limited(**limits)
    await (await quotas.reserve(key, None, 8, 8, NOON)).settle(8, 8)
    error = await refused(quotas, key, tokens=5, picousd=5)
    assert error.details["limit"] == limit
    assert error.retry_after_seconds == pytest.approx(HALF_DAY)
    await quotas.reserve(key, None, 5, 5, NOON + HALF_DAY)


async def test_what_is_only_reserved_may_come_back_soon(quotas: Quotas) -> None:
    key = limited(tokens_per_day=10)
    running = await quotas.reserve(key, None, 8, 0, NOON)
    assert (await refused(quotas, key, tokens=5)).retry_after_seconds == 1
    await running.settle(2, 0)
    await quotas.reserve(key, None, 5, 0, NOON)


async def test_a_request_larger_than_the_limit_is_told_no_time_to_wait(quotas: Quotas) -> None:
    error = await refused(quotas, limited(tokens_per_day=10), tokens=11)
    assert error.retry_after_seconds is None


async def test_a_rejected_request_takes_nothing_from_any_limit(quotas: Quotas) -> None:
    key = limited(picousd_per_month=0)
    for _ in range(60):
        await refused(quotas, key, "192.0.2.1", tokens=5, picousd=1)
    assert await used(quotas, "acme", NOON) == OrganisationUse()
    await quotas.reserve(limited(), "192.0.2.1", 5, 0, NOON)


async def test_a_release_gives_back_the_day_and_the_month(quotas: Quotas) -> None:
    key = limited(requests_per_day=1, tokens_per_day=5, tokens_per_month=5, picousd_per_month=3)
    for _ in range(200):
        await (await quotas.reserve(key, None, 5, 3, NOON)).release()
    assert await used(quotas, "acme", NOON) == OrganisationUse()


@pytest.mark.parametrize(("address", "admitted"), [(None, 100), ("192.0.2.1", 50)])
async def test_a_request_that_came_to_nothing_counts_in_its_minute_and_second(
    quotas: Quotas, address: str | None, admitted: int
) -> None:
    for _ in range(admitted):
        await (await quotas.reserve(KEY, address, 5, 0, NOON)).release()
    limit = "requests_per_minute" if address is None else "address_requests_per_second"
    assert (await refused(quotas, KEY, address)).details["limit"] == limit


async def test_usage_beyond_the_estimate_is_booked_in_full(quotas: Quotas) -> None:
    key = limited(tokens_per_day=10)
    await (await quotas.reserve(key, None, 5, 1, NOON)).settle(500, 7)
    assert await used(quotas, "acme", NOON) == OrganisationUse(1, 500, 1, 500, 7)


async def test_a_settlement_after_midnight_counts_for_the_day_of_the_request(quotas: Quotas) -> None:
    reservation = await quotas.reserve(KEY, None, 5, 5, NOON)
    assert (await used(quotas, "acme", NOON + HALF_DAY)).tokens_today == 0
    await reservation.settle(3, 3)
    assert await used(quotas, "acme", NOON) == OrganisationUse(1, 3, 1, 3, 3)
    assert await used(quotas, "acme", NOON + HALF_DAY) == OrganisationUse()


async def test_a_lease_that_nobody_ends_returns_by_itself(quotas: Quotas) -> None:
    key = limited(tokens_per_day=10)
    late = await quotas.reserve(key, None, 10, 0, NOON)
    await refused(quotas, key, now=NOON + 899)
    await quotas.reserve(key, None, 9, 0, NOON + 900)
    await late.settle(4, 0)
    assert (await used(quotas, "acme", NOON + 900)).tokens_today == 13


async def test_a_clock_that_goes_back_an_hour_opens_the_window_and_keeps_the_quota(quotas: Quotas) -> None:
    for _ in range(100):
        await quotas.reserve(KEY, None, 1, 0, NOON)
    await refused(quotas, KEY, now=NOON - 30)
    await quotas.reserve(KEY, None, 1, 0, NOON - 3600)
    assert (await used(quotas, "acme", NOON - 3600)).requests_today == 101


async def test_use_survives_a_restart(backend: Backend) -> None:
    async with open_storage(*backend.locations) as storage:
        now = 4_102_444_800.0
        await (await storage.quotas.reserve(KEY, None, 100, 10, now)).settle(42, 7)
        await storage.quotas.reserve(KEY, None, 100, 10, now)
    async with open_storage(*backend.locations) as storage:
        expected = OrganisationUse(1, 42, 1, 42, 7)
        if backend.redis_url is not None:  # the second request's lease lives in Redis, and its owner may too
            expected = OrganisationUse(2, 142, 2, 142, 17)
        assert await used(storage.quotas, "acme", now) == expected


async def test_idle_windows_are_forgotten() -> None:
    quotas = MemoryQuotas()
    for number in range(500):
        await (await quotas.reserve(replace(KEY, id=str(number)), f"192.0.2.{number}", 1, 0, NOON)).settle(1, 0)
    await quotas.reserve(KEY, None, 1, 0, NOON + 120)
    assert (len(quotas._keys), len(quotas._address_windows), len(quotas._leases)) == (1, 0, 1)


async def test_what_an_organisation_has_under_way_outlives_the_forgetting_of_its_idle_keys() -> None:
    limited = replace(KEY, limits=OrganisationLimits(concurrent_requests=1))
    other = replace(limited, id="another-key")
    quotas = MemoryQuotas()
    await (await quotas.reserve(other, None, 1, 0, NOON)).settle(1, 0)
    under_way = await quotas.reserve(limited, None, 1, 0, NOON)
    with pytest.raises(RateLimited):
        await quotas.reserve(other, None, 1, 0, NOON + 120)
    await under_way.settle(1, 0)
    await quotas.reserve(other, None, 1, 0, NOON + 120)


@pytest.fixture
async def own_redis() -> AsyncIterator[RedisServer]:
    server = RedisServer()
    server.start()
    yield server
    server.stop()


async def test_without_redis_requests_are_refused_as_unavailable_and_settlements_wait(own_redis: RedisServer) -> None:
    """A Redis that hangs may still get what was sent to it: the settlement is booked once all the same."""
    link = RedisLink(own_redis.url, PipelineBounds(silence_seconds=0.2))
    quotas = RedisQuotas(link)
    await (await quotas.reserve(KEY, None, 5, 5, NOON)).settle(3, 3)
    reservation = await quotas.reserve(KEY, None, 5, 5, NOON)
    own_redis.hang()
    await reservation.settle(3, 3)
    for _ in range(3):
        with pytest.raises(StorageUnavailable) as caught:
            await quotas.reserve(KEY, None, 5, 5, NOON)
        assert caught.value.retry_after_seconds is not None
    await until(lambda: quotas.waiting_ends == 1)
    own_redis.go_on()
    await until(lambda: not quotas.waiting_ends)
    assert await used(quotas, "acme", NOON) == OrganisationUse(2, 6, 2, 6, 6)
    await quotas.close()
    await link.close()


async def test_without_redis_each_process_can_count_alone(own_redis: RedisServer) -> None:
    own_redis.stop()
    link = RedisLink(own_redis.url)
    quotas = RedisQuotas(link, fallback=ShareOfQuotas())
    key = limited(requests_per_day=1)
    await (await quotas.reserve(key, None, 1, 0, NOON)).settle(1, 0)
    assert (await refused(quotas, key)).details["limit"] == "requests_per_day"
    await link.close()
