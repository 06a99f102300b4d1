"""Splices cost_info and performance_info (docs/gateway-api.md) into an answer; what was not measured is null."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from vllm_service.domain.money import PICOUSD_PER_USD

_encode = msgspec.json.Encoder().encode
# %a writes a number as Python would, which is as JSON would.
_COST = (
    b',"cost_info":{"vllm_cost_usd":%a,"openai_cost_usd":%a,"savings_usd":%a,"savings_percentage":%a,"is_estimate":%b}'
)
_COST_UNKNOWN = (
    b',"cost_info":{"vllm_cost_usd":%b,"openai_cost_usd":%b,"savings_usd":%b,"savings_percentage":null,'
    b'"is_estimate":%b}'
)
_PERFORMANCE = (
    b',"performance_info":{"inference_time_ms":%.3f,"ttft_ms":%b,"tokens_per_second":%b,"cache_hit":%b,'
    b'"quality_score":null,%b}'
)
_BOOLEANS = (b"false", b"true")


def cost_info(cost_picousd: int | None, baseline_picousd: int | None, is_estimate: bool) -> bytes:
    """`,"cost_info":{...}`: a member to be added to an object that has some.

    is_estimate: the cost is the router's expectation of a worker's seconds, or of tokens that nobody counted.
    """
    if cost_picousd is None or not baseline_picousd:
        saved = None if cost_picousd is None or baseline_picousd is None else baseline_picousd - cost_picousd
        known = _usd(cost_picousd), _usd(baseline_picousd), _usd(saved)
        return _COST_UNKNOWN % (*known, _BOOLEANS[is_estimate])
    saved = baseline_picousd - cost_picousd
    usd = PICOUSD_PER_USD
    percentage = round(100 * saved / baseline_picousd, 3)
    return _COST % (cost_picousd / usd, baseline_picousd / usd, saved / usd, percentage, _BOOLEANS[is_estimate])


def performance_info(
    total_seconds: float,
    ttft_seconds: float | None,
    completion_tokens: int | None,
    is_cached: bool,
    place: bytes,
) -> bytes:
    """`,"performance_info":{...}`, likewise. place: of `provider_info`."""
    per_second = completion_tokens / total_seconds if completion_tokens and total_seconds > 0 else None
    return _PERFORMANCE % (
        total_seconds * 1000,
        b"null" if ttft_seconds is None else b"%.3f" % (ttft_seconds * 1000),
        b"null" if per_second is None else b"%.3f" % per_second,
        _BOOLEANS[is_cached],
        place,
    )


@lru_cache(maxsize=4096)
def provider_info(provider: str | None, reason: str, is_on_apple_silicon: bool) -> bytes:
    """The members of performance_info that say who answered, and why."""
    members = {"provider": provider, "apple_silicon_optimized": is_on_apple_silicon, "route_reason": reason}
    return _encode(members)[1:-1]


def spliced(document: bytes, *members: bytes) -> bytes:
    """The document with these members at its end; white space, or SSE's line breaks, may follow the object."""
    end = document.rindex(b"}")
    begin = document[:end]
    if begin.endswith((b"{", b" ", b"\n", b"\t", b"\r")) and begin.rstrip().endswith(b"{"):
        members = (members[0][1:], *members[1:])
    return b"".join((begin, *members, document[end:]))


def _usd(amount_picousd: int | None) -> bytes:
    return b"null" if amount_picousd is None else b"%a" % (amount_picousd / PICOUSD_PER_USD)
