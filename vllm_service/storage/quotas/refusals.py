"""Makes the text and details of a 429: which limit, how much it allows, and when to try again."""

from __future__ import annotations

from collections.abc import Mapping

from vllm_service.domain.keys import CONCURRENT_REQUESTS, REQUESTS_PER_MINUTE, ApiKey
from vllm_service.domain.money import to_usd
from vllm_service.domain.quotas import Limit, seconds_to_next_day, seconds_to_next_month, try_again
from vllm_service.errors import RateLimited

#: The wait where only reservations of running requests are in the way: they may give back a part at any time.
RUNNING_REQUESTS_WAIT_SECONDS = 1.0
LIMITS = tuple(Limit)
_WORDS = {
    Limit.REQUESTS_PER_MINUTE: "This key may make {} requests a minute",
    Limit.ADDRESS_REQUESTS_PER_SECOND: "This address may make {} requests a second",
    Limit.REQUESTS_PER_DAY: "This organisation may make {} requests a day (UTC)",
    Limit.TOKENS_PER_DAY: "This organisation may use {} tokens a day (UTC)",
    Limit.TOKENS_PER_MONTH: "This organisation may use {} tokens a month (UTC)",
    Limit.USD_PER_MONTH: "This organisation may spend {} USD a month (UTC)",
    Limit.CONCURRENT_REQUESTS: "This key may have {} requests under way at once",
    Limit.ORGANISATION_CONCURRENT_REQUESTS: "This organisation may have {} requests under way at once",
}


def allowed_by(key: ApiKey, address_limit: int) -> dict[Limit, int | None]:
    """Returns what each limit allows: requests, tokens or pico-dollars; None is no limit."""
    limits = key.limits
    at_once = None if limits.concurrent_requests is None else CONCURRENT_REQUESTS[key.tier]
    return {
        Limit.REQUESTS_PER_MINUTE: REQUESTS_PER_MINUTE[key.tier],
        Limit.ADDRESS_REQUESTS_PER_SECOND: address_limit,
        Limit.REQUESTS_PER_DAY: limits.requests_per_day,
        Limit.TOKENS_PER_DAY: limits.tokens_per_day,
        Limit.TOKENS_PER_MONTH: limits.tokens_per_month,
        Limit.USD_PER_MONTH: limits.picousd_per_month,
        Limit.CONCURRENT_REQUESTS: at_once,
        Limit.ORGANISATION_CONCURRENT_REQUESTS: limits.concurrent_requests,
    }


def requested_amounts(tokens: int, picousd: int) -> dict[Limit, int]:
    """Returns how much one request takes from each limit."""
    return {
        Limit.REQUESTS_PER_MINUTE: 1,
        Limit.ADDRESS_REQUESTS_PER_SECOND: 1,
        Limit.REQUESTS_PER_DAY: 1,
        Limit.TOKENS_PER_DAY: tokens,
        Limit.TOKENS_PER_MONTH: tokens,
        Limit.USD_PER_MONTH: picousd,
        Limit.CONCURRENT_REQUESTS: 1,
        Limit.ORGANISATION_CONCURRENT_REQUESTS: 1,
    }


def period_wait_seconds(limit: Limit, now_seconds: float, may_come_back: bool) -> float:
    """Returns the wait until the limit's day or month ends, or a short one if `may_come_back`.

    may_come_back: the request would fit but for what others have only reserved.
    """
    if may_come_back:
        return RUNNING_REQUESTS_WAIT_SECONDS
    per_day = limit in (Limit.REQUESTS_PER_DAY, Limit.TOKENS_PER_DAY)
    return seconds_to_next_day(now_seconds) if per_day else seconds_to_next_month(now_seconds)


def rejection(
    allowed_by_limit: Mapping[Limit, int | None], waits: Mapping[Limit, float], requested: Mapping[Limit, int]
) -> RateLimited:
    """Returns the error for the limit with the longest wait. waits: seconds, of every limit that has no room.

    requested: how much this request takes, by limit. A request for more than a whole limit gets no Retry-After: no
    waiting helps it.
    """
    hopeless = [limit for limit in waits if requested[limit] > (allowed_by_limit[limit] or 0)]
    limit = hopeless[0] if hopeless else max(waits, key=lambda name: waits[name])
    allowed = allowed_by_limit[limit] or 0
    shown = to_usd(allowed) if limit is Limit.USD_PER_MONTH else allowed
    details = {"limit": limit.value, "allowed": shown}
    words = _WORDS[limit].format(f"{shown:,}")
    if hopeless:
        return RateLimited(f"{words}; this request alone may need more, so waiting does not help.", details=details)
    wait = max(waits[limit], 0.001)
    return RateLimited(f"{words}; {try_again(wait)}.", details=details, retry_after_seconds=wait)
