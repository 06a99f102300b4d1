"""cost_info and performance_info (shared/API.md), spliced into an answer's bytes; what was not measured is null."""

from __future__ import annotations

import msgspec

from vllm_service.domain.money import PICOUSD_PER_USD

_encode = msgspec.json.Encoder().encode


def annotation(
    *,
    cost_picousd: int | None,
    baseline_picousd: int | None,
    total_seconds: float,
    ttft_seconds: float | None,
    completion_tokens: int | None,
    provider: str | None,
    reason: str,
    is_cached: bool = False,
    is_apple_silicon: bool = False,
) -> bytes:
    """`,"cost_info":{...},"performance_info":{...}`: members to be added to an object that has some."""
    saved = None if cost_picousd is None or baseline_picousd is None else baseline_picousd - cost_picousd
    percentage = None if saved is None or not baseline_picousd else round(100 * saved / baseline_picousd, 3)
    per_second = completion_tokens / total_seconds if completion_tokens and total_seconds > 0 else None
    return (
        f',"cost_info":{{"vllm_cost_usd":{_usd(cost_picousd)},"openai_cost_usd":{_usd(baseline_picousd)},'
        f'"savings_usd":{_usd(saved)},"savings_percentage":{"null" if percentage is None else percentage}}},'
        f'"performance_info":{{"inference_time_ms":{total_seconds * 1000:.3f},'
        f'"ttft_ms":{"null" if ttft_seconds is None else f"{ttft_seconds * 1000:.3f}"},'
        f'"tokens_per_second":{"null" if per_second is None else f"{per_second:.3f}"},'
        f'"cache_hit":{"true" if is_cached else "false"},"quality_score":null,"provider":'.encode()
        + _encode(provider)
        + (b',"apple_silicon_optimized":true' if is_apple_silicon else b',"apple_silicon_optimized":false')
        + b',"route_reason":'
        + _encode(reason)
        + b"}"
    )


def spliced(document: bytes, members: bytes) -> bytes:
    """The document with these members at its end; white space, or SSE's line breaks, may follow the object."""
    end = document.rindex(b"}")
    if document[:end].rstrip().endswith(b"{"):
        members = members[1:]
    return b"%b%b%b" % (document[:end], members, document[end:])


def _usd(amount_picousd: int | None) -> str:
    return "null" if amount_picousd is None else repr(amount_picousd / PICOUSD_PER_USD)
