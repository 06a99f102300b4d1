"""What a caller may ask of the router in headers; each is optional, and checked."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation

from vllm_service.domain.money import PICOUSD_PER_USD
from vllm_service.errors import InvalidRequest

_PROVIDER, _STRATEGY = b"x-route-provider", b"x-route-strategy"
_TARGET, _CAP = b"x-latency-target-ms", b"x-max-cost-usd"
NAMES = (_PROVIDER, _STRATEGY, _TARGET, _CAP)


def wishes(headers: Mapping[bytes, bytes]) -> tuple[float | None, int | None, str | None, str | None]:
    """latency_target_seconds, cap_picousd, strategy, provider of a RequestFacts. Raises errors.InvalidRequest."""
    target = _number(headers, _TARGET)
    cap = _number(headers, _CAP)
    return (
        None if target is None else float(target / 1000),
        None if cap is None else int(cap * PICOUSD_PER_USD),
        _text(headers, _STRATEGY),
        _text(headers, _PROVIDER),
    )


def _number(headers: Mapping[bytes, bytes], name: bytes) -> Decimal | None:
    sent = headers.get(name)
    if sent is None:
        return None
    try:
        number = Decimal(sent.decode("latin-1"))
    except InvalidOperation:
        number = Decimal(-1)
    if not number.is_finite() or not 0 < number < 10**9:
        raise InvalidRequest(f"The header {name.decode()} is not a positive number.", param=name.decode())
    return number


def _text(headers: Mapping[bytes, bytes], name: bytes) -> str | None:
    sent = headers.get(name)
    return sent.decode("latin-1")[:128] if sent else None
