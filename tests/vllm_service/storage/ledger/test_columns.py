"""One table of columns: nothing of a record is forgotten by it, and what is made of it has the names that are known."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec import structs

from tests.vllm_service.storage.old_database import RECORDS
from vllm_service.domain.cost_basis import CostBasis
from vllm_service.domain.requests import RequestRecord
from vllm_service.domain.usage import Usage
from vllm_service.storage.ledger.columns import COLUMNS, REQUESTS
from vllm_service.storage.ledger.rows import (
    EXPORT_NAMES,
    exported,
    logged,
    record_of,
    row_of,
    sanitised,
    span_attributes,
)

PAGE = Path(__file__).resolve().parents[4] / "docs" / "ledger.md"
FULL, HEDGE, REJECTED, *_ = RECORDS
BOOKED = structs.replace(
    FULL,
    request_id="booked",
    cost_basis=CostBasis.BOOKED,
    execution_picousd=4_000_000,
    cold_start_picousd=3_000_001,
    idle_picousd=0,
)


def test_every_field_of_a_record_and_of_its_usage_has_a_column() -> None:
    of_record = [column.field for column in COLUMNS if not column.of_usage]
    of_usage = [column.field for column in COLUMNS if column.of_usage]
    assert sorted([*of_record, "usage"]) == sorted(RequestRecord.__struct_fields__)
    assert sorted(of_usage) == sorted(Usage.__struct_fields__)


def test_exports_have_the_columns_that_the_page_explains() -> None:
    table = PAGE.read_text("utf-8").partition("## The ledger")[2].partition("**Accuracy.**")[0]
    first_cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("|")]
    explained = [name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)]
    assert [name for name in explained if name not in ("writer", "sequence")] == list(EXPORT_NAMES)


@pytest.mark.parametrize("record", [*RECORDS, BOOKED], ids=lambda record: record.request_id)
def test_a_row_becomes_the_record_that_it_was_made_of(record: RequestRecord) -> None:
    row = row_of(record, 7, 8)
    assert row[:2] == (7, 8)
    assert len(row) == len(REQUESTS.columns)
    assert {type(value) for value in row} <= {int, float, str, type(None)}
    assert record_of(row) == record


def test_a_text_that_no_database_takes_is_mended_and_numbers_are_left() -> None:
    row = row_of(structs.replace(FULL, model="a\0b\ud800", route_reason="x" * 1000), 1, 1)
    record = record_of(sanitised(row))
    assert (record.model, len(record.route_reason or "")) == ("ab?", 512)
    assert structs.replace(record, model=FULL.model, route_reason=FULL.route_reason) == FULL


def test_an_export_holds_what_is_not_known_as_nothing() -> None:
    values = dict(zip(EXPORT_NAMES, exported(5, REJECTED), strict=True))
    assert (values["id"], values["outcome"], values["stream"]) == (5, "rejected", False)
    assert (values["prompt_tokens"], values["usage_estimated"], values["cost_picousd"]) == (None, None, None)
    assert values["started_at"].isoformat() == "2026-11-18T11:07:40+00:00"


def test_a_cost_says_in_exports_logs_and_spans_what_it_rests_on() -> None:
    values = dict(zip(EXPORT_NAMES, exported(5, BOOKED), strict=True))
    parts = ("cost_basis", "execution_picousd", "cold_start_picousd", "idle_picousd")
    assert [values[name] for name in parts] == ["booked", 4_000_000, 3_000_001, 0]
    assert logged(BOOKED)["cost_basis"] == span_attributes(BOOKED)["vllm_service.cost_basis"] == "booked"
    assert {type(values["cost_basis"]), type(logged(BOOKED)["cost_basis"])} == {str}


def test_the_access_log_has_dollars_and_milliseconds_for_people() -> None:
    line = logged(FULL)
    assert (line["cost_usd"], line["total_ms"], line["started_at"]) == (
        0.000007000001,
        1234.568,
        "2026-11-18T11:06:40.123Z",
    )
    assert (line["outcome"], line["estimated"], line["error_code"]) == ("completed", False, None)
    assert set(line) == {
        "request_id", "started_at", "organisation", "key_id", "operation", "model", "stream", "status", "outcome",
        "error_code", "provider", "upstream_model", "attempts", "prompt_tokens", "cached_tokens", "completion_tokens",
        "estimated", "cost_usd", "cost_basis", "queue_ms", "ttft_ms", "total_ms", "route_reason",
    }  # fmt: skip


def test_a_span_has_only_what_is_known() -> None:
    assert span_attributes(HEDGE)["vllm_service.usage_estimated"] is True
    assert span_attributes(REJECTED) == {
        "vllm_service.request_id": "req_2",
        "gen_ai.operation.name": "chat.completions",
        "vllm_service.outcome": "rejected",
        "http.response.status_code": 401,
        "vllm_service.stream": False,
        "vllm_service.attempts": 0,
        "error.type": "UNAUTHORIZED_401",
    }
