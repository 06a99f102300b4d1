"""What a caller may ask of the router in headers; each is optional, and checked."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

from vllm_service.domain.money import PICOUSD_PER_USD
from vllm_service.errors import InvalidRequest

_PROVIDER, _STRATEGY = b"x-route-provider", b"x-route-strategy"
_TARGET, _CAP = b"x-latency-target-ms", b"x-max-cost-usd"
_TAGS = b"x-route-tags"
NAMES = (_PROVIDER, _STRATEGY, _TARGET, _CAP, _TAGS)
NO_TAGS: frozenset[str] = frozenset()
_MOST_TAGS = 16


class RoutingHeaders(NamedTuple):
    """Of a RequestFacts what callers may set."""

    latency_target_seconds: float | None = None
    cap_picousd: int | None = None
    strategy: str | None = None
    provider: str | None = None
    tags: frozenset[str] = NO_TAGS


NONE = RoutingHeaders()


def wishes(headers: Mapping[bytes, bytes]) -> RoutingHeaders:
    """Raises errors.InvalidRequest."""
    target = _number(headers, _TARGET)
    cap = _number(headers, _CAP)
    return RoutingHeaders(
        None if target is None else float(target / 1000),
        None if cap is None else int(cap * PICOUSD_PER_USD),
        _text(headers, _STRATEGY),
        _text(headers, _PROVIDER),
        _tags(headers),
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


def _tags(headers: Mapping[bytes, bytes]) -> frozenset[str]:
    """Words between commas: `region:eu, needs:vision, private`; see routing/filters.py."""
    words = (headers.get(_TAGS) or b"").decode("latin-1").split(",")
    tags = frozenset(word.strip() for word in words if word.strip())
    if len(tags) > _MOST_TAGS:
        raise InvalidRequest(f"{_TAGS.decode()}: at most {_MOST_TAGS} tags", param=_TAGS.decode())
    return tags
