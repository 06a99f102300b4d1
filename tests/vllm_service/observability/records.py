"""Finished requests for tests of what is measured, one by one and at random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from msgspec.structs import replace

from vllm_service.domain.requests import Outcome, RequestRecord
from vllm_service.domain.usage import Usage
from vllm_service.observability.tally import Tally

COMPLETED = RequestRecord(
    request_id="req-1",
    started_at=1_800_000_000.0,
    key_id="k1",
    organisation="acme",
    operation="chat.completions",
    model="llama",
    outcome=Outcome.COMPLETED,
    status=200,
    provider="hosted",
    usage=Usage(10, 20, cached_tokens=4, reasoning_tokens=5),
    cost_picousd=7,
    baseline_picousd=10,
    queue_ms=1.0,
    ttft_ms=20.0,
    total_ms=100.0,
    attempts=1,
)
# Quarters of a millisecond add up exactly in any order, so that sums can be compared with ==.
_MILLISECONDS = st.none() | st.integers(0, 10**8).map(lambda quarters: quarters / 4)
_PICOUSD = st.none() | st.integers(0, 10**20)
_TOKENS = st.integers(0, 10**9)
_USAGES = st.none() | st.builds(Usage, _TOKENS, _TOKENS, _TOKENS, _TOKENS, st.booleans())


def record(**fields: Any) -> RequestRecord:
    """A completed request, but for these fields."""
    return replace(COMPLETED, **fields)


RECORDS = st.builds(
    record,
    outcome=st.sampled_from(Outcome),
    status=st.sampled_from([200, 429, 499, 503]),
    usage=_USAGES,
    cost_picousd=_PICOUSD,
    baseline_picousd=_PICOUSD,
    stream=st.booleans(),
    queue_ms=_MILLISECONDS,
    ttft_ms=_MILLISECONDS,
    total_ms=_MILLISECONDS,
    attempts=st.integers(0, 4),
    error_code=st.sampled_from([None, "MODEL_503", "RATE_LIMIT_429"]),
)


def tally_of(records: Sequence[RequestRecord], target_ms: float | None = None) -> Tally:
    """What these add up to."""
    tally = Tally()
    if records:
        tally.add(records, [one.error_code for one in records if one.error_code is not None], target_ms)
    return tally


def everything_in(tally: Tally) -> dict[str, object]:
    """All that a tally holds, in a form that can be compared."""
    numbers = {name: getattr(tally, name) for name in Tally.__slots__ if name not in ("latency", "ttft")}
    spreads = {
        name: (spread.counts, spread.sum_ms, spread.least_ms, spread.greatest_ms)
        for name, spread in (("latency", tally.latency), ("ttft", tally.ttft))
    }
    return numbers | spreads
