"""The gateway's annotations of an answer, `cost_info` and `performance_info`: the exact cost, provider and reason.

Other servers may send members with these names and another meaning. Anything without the gateway's form is ignored, so
that it never makes an answer fail. Pure.
"""

from __future__ import annotations

from decimal import Context, Decimal
from typing import NamedTuple

import msgspec

from vllm_service.domain.money import PICOUSD_PER_USD

#: A document without these bytes has no annotation, and need not be read for one.
MARK = b"cost_info"
#: More pico-dollars do not fit into 64 bits; no answer costs that much.
_MOST_USD = Decimal(9_000_000)
#: The application's own decimal context may round.
_EXACT = Context(prec=60)


class Annotation(NamedTuple):
    """The gateway's annotation of an answer. None is unknown."""

    cost_picousd: int | None
    #: The cost is the gateway's estimate: of a worker's seconds, or of tokens that the provider did not count.
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


def read_annotation(document: bytes | str) -> Annotation | None:
    """Returns the annotation in a whole answer or in an event; None if there is none."""
    # The numbers are decoded from the text: a float cannot hold every number of pico-dollars.
    try:
        annotated = _decode(document)
        cost = _picousd(annotated.cost_info.vllm_cost_usd)
    except (ValueError, ArithmeticError, RecursionError):
        return None
    performance = annotated.performance_info
    is_estimate = annotated.cost_info.is_estimate
    return Annotation(cost, is_estimate, performance.provider or None, performance.route_reason or None)


def _picousd(usd: Decimal | None) -> int | None:
    """Returns the cost in pico-dollars. Raises ValueError for a number that cannot be one."""
    if usd is None:
        return None
    if not usd.is_finite() or not 0 <= usd <= _MOST_USD:
        raise ValueError
    return int(_EXACT.to_integral_value(_EXACT.multiply(usd, Decimal(PICOUSD_PER_USD))))
