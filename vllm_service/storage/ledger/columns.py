"""The ledger's columns: the one list from which table, rows, exports, access log and span attributes are made.

A new column is a field of RequestRecord (or Usage), a line in COLUMNS, and a migration that adds it to the table.
docs/ledger.md describes each column.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import pos
from typing import Any

from vllm_service.domain.cost_basis import CostBasis
from vllm_service.domain.money import PICOUSD_PER_USD
from vllm_service.domain.requests import Outcome
from vllm_service.domain.timestamps import rfc3339, utc_seconds
from vllm_service.storage.sql.database import Column, Table

Convert = Callable[[Any], Any]
_US = 1_000_000


def same(value: Any) -> Any:
    """Returns the value: the conversion of kinds that need none."""
    return value


def _seconds(text: str) -> float:
    """Returns seconds since 1970, from a number or RFC 3339."""
    try:
        return float(text)
    except ValueError:
        return utc_seconds(text)


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of value and its conversions. None, for unknown, is never converted."""

    #: The type in both databases (see database.Column).
    sql: str
    #: The type in Arrow, and so in Parquet: a function of pyarrow, or "timestamp".
    arrow: str
    to_row: Convert = same
    from_row: Convert = same
    to_export: Convert = same
    #: From a cell of a CSV export. Empty cells are unknown and are not converted.
    from_text: Convert = same
    #: To the value in logs and spans.
    to_shown: Convert = same


TEXT = Kind("TEXT", "string")
WHOLE = Kind("BIGINT", "int64", from_text=int)
MILLISECONDS = Kind("DOUBLE PRECISION", "float64", from_text=float, to_shown=lambda ms: round(ms, 3))
PICOUSD = Kind("BIGINT", "int64", from_text=int, to_shown=lambda picousd: picousd / PICOUSD_PER_USD)
# `operator.pos` makes an integer of a bool in half the time of `int`, and each request pays for it.
FLAG = Kind("BIGINT", "bool_", to_row=pos, from_row=bool, from_text=lambda text: text in ("true", "1"))
OUTCOME = Kind("TEXT", "string", to_row=str, from_row=Outcome, to_export=str, from_text=Outcome, to_shown=str)
COST_BASIS = Kind("TEXT", "string", to_row=str, from_row=CostBasis, to_export=str, from_text=CostBasis, to_shown=str)
TIMESTAMP = Kind(
    "BIGINT",
    "timestamp",
    to_row=lambda seconds: round(seconds * _US),
    from_row=lambda microseconds: microseconds / _US,
    to_export=lambda seconds: datetime.fromtimestamp(seconds, UTC),
    from_text=_seconds,
    to_shown=rfc3339,
)


@dataclass(frozen=True, slots=True)
class LedgerColumn:
    """One column, filled from a field of RequestRecord or of its Usage."""

    field: str
    kind: Kind
    #: True for a field of the record's Usage.
    of_usage: bool = False
    #: The name in the table; the field's name if empty.
    name: str = ""
    #: The name in exports; the name in the table if empty.
    exported: str = ""
    #: The name in the access log; None where the log leaves it out.
    logged: str | None = None
    #: The attribute of the request's span, by OpenTelemetry's conventions if there is one; None where it is left out.
    span: str | None = None

    @property
    def column(self) -> str:
        """The column's name in the table."""
        return self.name or self.field

    @property
    def export_name(self) -> str:
        """The column's name in exports."""
        return self.exported or self.column


COLUMNS = (
    LedgerColumn("request_id", TEXT, logged="request_id", span="vllm_service.request_id"),
    LedgerColumn("started_at", TIMESTAMP, name="started_at_us", exported="started_at", logged="started_at"),
    LedgerColumn("key_id", TEXT, logged="key_id"),
    LedgerColumn("organisation", TEXT, logged="organisation", span="vllm_service.organisation"),
    LedgerColumn("operation", TEXT, logged="operation", span="gen_ai.operation.name"),
    LedgerColumn("model", TEXT, logged="model", span="gen_ai.request.model"),
    LedgerColumn("outcome", OUTCOME, logged="outcome", span="vllm_service.outcome"),
    LedgerColumn("status", WHOLE, logged="status", span="http.response.status_code"),
    LedgerColumn("provider", TEXT, logged="provider", span="gen_ai.provider.name"),
    LedgerColumn("upstream_model", TEXT, logged="upstream_model", span="gen_ai.response.model"),
    LedgerColumn("prompt_tokens", WHOLE, of_usage=True, logged="prompt_tokens", span="gen_ai.usage.input_tokens"),
    LedgerColumn(
        "completion_tokens", WHOLE, of_usage=True, logged="completion_tokens", span="gen_ai.usage.output_tokens"
    ),
    LedgerColumn("cached_tokens", WHOLE, of_usage=True, logged="cached_tokens"),
    LedgerColumn("reasoning_tokens", WHOLE, of_usage=True),
    LedgerColumn(
        "estimated",
        FLAG,
        of_usage=True,
        name="usage_estimated",
        logged="estimated",
        span="vllm_service.usage_estimated",
    ),
    LedgerColumn(
        "implausible",
        FLAG,
        of_usage=True,
        name="usage_implausible",
        span="vllm_service.usage_implausible",
    ),
    LedgerColumn("cost_picousd", PICOUSD, logged="cost_usd", span="vllm_service.cost_usd"),
    LedgerColumn("cost_basis", COST_BASIS, logged="cost_basis", span="vllm_service.cost_basis"),
    LedgerColumn("execution_picousd", PICOUSD),
    LedgerColumn("cold_start_picousd", PICOUSD),
    LedgerColumn("idle_picousd", PICOUSD),
    LedgerColumn("baseline_picousd", PICOUSD),
    LedgerColumn("stream", FLAG, logged="stream", span="vllm_service.stream"),
    LedgerColumn("queue_ms", MILLISECONDS, logged="queue_ms"),
    LedgerColumn("ttft_ms", MILLISECONDS, logged="ttft_ms", span="vllm_service.ttft_ms"),
    LedgerColumn("total_ms", MILLISECONDS, logged="total_ms"),
    LedgerColumn("attempts", WHOLE, logged="attempts", span="vllm_service.attempts"),
    LedgerColumn("error_code", TEXT, logged="error_code", span="error.type"),
    LedgerColumn("route_reason", TEXT, logged="route_reason"),
    LedgerColumn("labels", TEXT),
)

# `writer` is the process that wrote the row, `sequence` that process's own count. By the two, the database ignores a
# row that is sent twice. The table itself is made by storage/sql/migrations.
REQUESTS = Table(
    "requests",
    (
        Column("writer", "BIGINT"),
        Column("sequence", "BIGINT"),
        *(Column(column.column, column.kind.sql) for column in COLUMNS),
    ),
    unique=("writer", "sequence"),
)
