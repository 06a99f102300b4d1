"""Reads the headers by which a caller may influence the route of a request; each is optional, and checked."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

from vllm_service.domain.money import PICOUSD_PER_USD
from vllm_service.errors import InvalidRequest

_PROVIDER = b"x-route-provider"
_STRATEGY = b"x-route-strategy"
_TARGET = b"x-latency-target-ms"
_CAP = b"x-max-cost-usd"
_TAGS = b"x-route-tags"
#: All of them.
NAMES = (_PROVIDER, _STRATEGY, _TARGET, _CAP, _TAGS)
NO_TAGS: frozenset[str] = frozenset()
_MOST_TAGS = 16


class RoutingHeaders(NamedTuple):
    """The members of RequestFacts that callers may set. None: the header is absent."""

    #: The time to the first token that the offer should keep.
    latency_target_seconds: float | None = None
    #: The most that the request may cost.
    cap_picousd: int | None = None
    #: The name of a routing strategy.
    strategy: str | None = None
    #: The name of the only provider that may answer.
    provider: str | None = None
    #: Tags that a provider needs to be chosen; see routing/filters.py.
    tags: frozenset[str] = NO_TAGS


#: The values of a request without any of these headers.
NONE = RoutingHeaders()


def read(headers: Mapping[bytes, bytes]) -> RoutingHeaders:
    """Returns the routing headers of a request. Raises errors.InvalidRequest for a value that is not valid."""
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
    """Returns a header as an exact number. Raises errors.InvalidRequest unless it is above 0 and below 10^9."""
    value = headers.get(name)
    if value is None:
        return None
    try:
        number = Decimal(value.decode("latin-1"))
    except InvalidOperation:
        number = Decimal(-1)  # refused below, like any number out of range
    if not number.is_finite() or not 0 < number < 10**9:
        raise InvalidRequest(f"The header {name.decode()} is not a positive number.", param=name.decode())
    return number


def _text(headers: Mapping[bytes, bytes], name: bytes) -> str | None:
    """Returns a header as text of at most 128 characters; longer names are none of ours, and are quoted in errors."""
    value = headers.get(name)
    return value.decode("latin-1")[:128] if value else None


def _tags(headers: Mapping[bytes, bytes]) -> frozenset[str]:
    """Returns the words between commas of `region:eu, needs:vision, private`. Raises errors.InvalidRequest."""
    words = (headers.get(_TAGS) or b"").decode("latin-1").split(",")
    tags = frozenset(word.strip() for word in words if word.strip())
    if len(tags) > _MOST_TAGS:
        what = f"The header {_TAGS.decode()} has {len(tags)} tags; at most {_MOST_TAGS} are allowed."
        raise InvalidRequest(what, param=_TAGS.decode())
    return tags
