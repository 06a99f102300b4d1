"""What an organisation has used, by the counts that limits keep: read where they are kept."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_service.domain.quotas import utc_day, utc_month
from vllm_service.storage.protocol import Quotas
from vllm_service.storage.quotas.memory import MemoryQuotas
from vllm_service.storage.quotas.redis import RedisQuotas
from vllm_service.storage.redis_link import RedisLink

_FIELDS = ["requests", "tokens", "picousd"]
Counts = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class OrganisationUse:
    """In the current UTC day and month, with what is reserved by leases that have not expired."""

    requests_today: int = 0
    tokens_today: int = 0
    requests_this_month: int = 0
    tokens_this_month: int = 0
    picousd_this_month: int = 0


async def used(quotas: Quotas, organisation: str, now_seconds: float) -> OrganisationUse:
    """Of either kind."""
    if isinstance(quotas, MemoryQuotas):
        day, month = in_memory(quotas, organisation, now_seconds)
    else:
        assert isinstance(quotas, RedisQuotas)
        now_ms = None if quotas._uses_server_clock else int(now_seconds * 1000)
        day, month = await in_redis(quotas._link, organisation, now_seconds, now_ms)
    return OrganisationUse(day[0], day[1], *month)


def in_memory(quotas: MemoryQuotas, organisation: str, now_seconds: float) -> tuple[Counts, Counts]:
    """Requests, tokens and pico-dollars of the day and of the month."""
    quotas._expire(int(now_seconds * 1000))
    day, month = quotas.periods.at(organisation, now_seconds)
    return (day.requests, day.tokens, day.picousd), (month.requests, month.tokens, month.picousd)


async def in_redis(
    link: RedisLink, organisation: str, now_seconds: float, lease_clock_ms: int | None
) -> tuple[Counts, Counts]:
    """As `in_memory`; leases expire by this clock, or by Redis's own."""
    if lease_clock_ms is None:
        seconds, microseconds = await link.client.time()
        lease_clock_ms = int(seconds) * 1000 + int(microseconds) // 1000
    prefix, day = f"vllm-service:org:{organisation}", utc_day(now_seconds)
    expired = await link.client.zrangebyscore(f"{prefix}:leases", "-inf", lease_clock_ms)
    over = [(lease.decode() if isinstance(lease, bytes) else str(lease)).split(":") for lease in expired]
    counts = []
    for place, name, number in ((1, "day", day), (2, "month", utc_month(day))):
        kept = await link.client.hmget(f"{prefix}:{name}:{number}", _FIELDS)
        requests, tokens, picousd = (int(value or 0) for value in kept)
        lost = [(1, int(lease[3]), int(lease[4])) for lease in over if lease[place] == str(number)]
        counts.append(_without((requests, tokens, picousd), lost))
    return counts[0], counts[1]


def _without(counts: Counts, lost: list[Counts]) -> Counts:
    requests, tokens, picousd = (sum(column) for column in zip((0, 0, 0), *lost, strict=True))
    return counts[0] - requests, counts[1] - tokens, counts[2] - picousd
