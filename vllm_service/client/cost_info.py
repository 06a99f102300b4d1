"""What our gateway adds to an answer, `cost_info` and `performance_info`: the exact cost, and where it went.

Other servers may send members of these names that mean something else. What is not the gateway's shape is left aside:
it never breaks an answer. Pure.
"""

from __future__ import annotations

from decimal import Context, Decimal
from typing import NamedTuple

import msgspec

from vllm_service.domain.money import PICOUSD_PER_USD

MEMBER = "cost_info"
_MARK = MEMBER.encode()
_MOST_USD = Decimal(9_000_000)  # what 64 bits hold; an answer that is said to cost more is nonsense
_EXACT = Context(prec=60)  # not the application's: that may round


class Annotation(NamedTuple):
    """None is unknown. is_estimate: the cost is what the gateway expects, of a worker's seconds or uncounted tokens."""

    cost_picousd: int | None
    is_estimate: bool
    provider: str | None
    route_reason: str | None


class _CostInfo(msgspec.Struct):
    vllm_cost_usd: Decimal | None
    openai_cost_usd: Decimal | None
    savings_usd: Decimal | None
    is_estimate: bool


class _PerformanceInfo(msgspec.Struct):
    provider: str | None
    route_reason: str


class _Annotated(msgspec.Struct):
    cost_info: _CostInfo
    performance_info: _PerformanceInfo


_decode = msgspec.json.Decoder(_Annotated).decode


def read_annotation(document: bytes | str | None) -> Annotation | None:
    """Returns what the gateway added to a whole answer, or to an event; None where there is nothing of it.

    Numbers are read from the text: a float would not hold every pico-dollar.
    """
    if document is None or (_MARK not in document if isinstance(document, bytes) else MEMBER not in document):
        return None
    try:
        annotated = _decode(document)
        cost = _picousd(annotated.cost_info.vllm_cost_usd)
    except (ValueError, ArithmeticError, RecursionError):
        return None
    place = annotated.performance_info
    return Annotation(cost, annotated.cost_info.is_estimate, place.provider or None, place.route_reason or None)


def _picousd(usd: Decimal | None) -> int | None:
    """Raises ValueError for what is no cost of an answer."""
    if usd is None:
        return None
    if not usd.is_finite() or not 0 <= usd <= _MOST_USD:
        raise ValueError
    return int(_EXACT.to_integral_value(_EXACT.multiply(usd, Decimal(PICOUSD_PER_USD))))
