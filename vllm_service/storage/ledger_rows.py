"""A RequestRecord as a row of the `requests` table, and back."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from vllm_service.domain.requests import Outcome, RequestRecord
from vllm_service.domain.usage import Usage
from vllm_service.storage.database import Value
from vllm_service.storage.schema import REQUESTS

_LONGEST_TEXT = 512
_TOKENS = ("prompt", "completion", "cached", "reasoning")
_NO_USAGE = (None, None, None, None)
# Columns that stand together, in the order of schema.REQUESTS.
_ASKED = attrgetter("key_id", "organisation", "operation", "model")
_ANSWERED = attrgetter("status", "provider", "upstream_model")
_USAGE = attrgetter(*(f"{kind}_tokens" for kind in _TOKENS))
_COST = attrgetter("cost_picousd", "baseline_picousd")
_TOOK = attrgetter("queue_ms", "ttft_ms", "total_ms", "attempts", "error_code", "route_reason")


def row_of(record: RequestRecord, writer: int, sequence: int) -> tuple[Value, ...]:
    """Values in the order of schema.REQUESTS."""
    usage = record.usage
    return (
        writer,
        sequence,
        record.request_id,
        round(record.started_at * 1_000_000),
        *_ASKED(record),
        str(record.outcome),
        *_ANSWERED(record),
        *(_NO_USAGE if usage is None else _USAGE(usage)),
        None if usage is None else int(usage.estimated),
        *_COST(record),
        int(record.stream),
        *_TOOK(record),
    )


def mended(row: tuple[Value, ...]) -> tuple[Value, ...]:
    """The row with texts as any database takes them: no NUL, no half a surrogate, none endless. Numbers stay true."""
    return tuple(_mend(value) for value in row)


def record_of(row: tuple[Any, ...]) -> RequestRecord:
    """The reverse of `row_of`; `row` in the same order."""
    values = dict(zip((column.name for column in REQUESTS.columns), row, strict=True))
    usage = None
    if values["prompt_tokens"] is not None:
        prompt, completion, cached, reasoning = (values[f"{kind}_tokens"] for kind in _TOKENS)
        usage = Usage(prompt, completion, cached, reasoning, bool(values["usage_estimated"]))
    same = ("request_id", "key_id", "organisation", "operation", "model", "status", "provider", "upstream_model")
    also = ("cost_picousd", "baseline_picousd", "queue_ms", "ttft_ms", "total_ms", "attempts", "error_code")
    return RequestRecord(
        started_at=values["started_at_us"] / 1_000_000,
        outcome=Outcome(values["outcome"]),
        usage=usage,
        stream=bool(values["stream"]),
        route_reason=values["route_reason"],
        **{name: values[name] for name in (*same, *also)},
    )


def _mend(value: Value) -> Value:
    if isinstance(value, str):
        return value.replace("\0", "").encode("utf-8", "replace").decode()[:_LONGEST_TEXT]
    return value
