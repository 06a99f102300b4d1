"""The ledger as CSV or Parquet: the same columns, a page of rows in memory at a time."""

from __future__ import annotations

import csv
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vllm_service.domain.requests import RequestRecord

Records = AsyncIterator[tuple[int, RequestRecord]]
_PAGE_ROWS = 5_000
# Column, its Arrow type, and where it comes from. docs/ledger.md says what they mean.
_COLUMNS: tuple[tuple[str, str, Callable[[int, RequestRecord], Any]], ...] = (
    ("id", "int64", lambda number, record: number),
    ("request_id", "string", lambda number, record: record.request_id),
    ("started_at", "timestamp", lambda number, record: datetime.fromtimestamp(record.started_at, UTC)),
    ("key_id", "string", lambda number, record: record.key_id),
    ("organisation", "string", lambda number, record: record.organisation),
    ("operation", "string", lambda number, record: record.operation),
    ("model", "string", lambda number, record: record.model),
    ("outcome", "string", lambda number, record: record.outcome.value),
    ("status", "int64", lambda number, record: record.status),
    ("provider", "string", lambda number, record: record.provider),
    ("upstream_model", "string", lambda number, record: record.upstream_model),
    ("prompt_tokens", "int64", lambda number, record: record.usage and record.usage.prompt_tokens),
    ("completion_tokens", "int64", lambda number, record: record.usage and record.usage.completion_tokens),
    ("cached_tokens", "int64", lambda number, record: record.usage and record.usage.cached_tokens),
    ("reasoning_tokens", "int64", lambda number, record: record.usage and record.usage.reasoning_tokens),
    ("usage_estimated", "bool_", lambda number, record: record.usage and record.usage.estimated),
    ("cost_picousd", "int64", lambda number, record: record.cost_picousd),
    ("baseline_picousd", "int64", lambda number, record: record.baseline_picousd),
    ("stream", "bool_", lambda number, record: record.stream),
    ("queue_ms", "float64", lambda number, record: record.queue_ms),
    ("ttft_ms", "float64", lambda number, record: record.ttft_ms),
    ("total_ms", "float64", lambda number, record: record.total_ms),
    ("attempts", "int64", lambda number, record: record.attempts),
    ("error_code", "string", lambda number, record: record.error_code),
    ("route_reason", "string", lambda number, record: record.route_reason),
)


async def write_csv(records: Records, output: Path | None) -> int:
    """To the file, or to standard output; returns how many rows. Unknown is an empty field, times are RFC 3339."""
    count = 0
    with output.open("w", encoding="utf-8", newline="") if output else nullcontext(sys.stdout) as file:
        lines = csv.writer(file)
        lines.writerow([name for name, _, _ in _COLUMNS])
        async for number, record in records:
            lines.writerow([_text(value) for value in _values(number, record)])
            count += 1
    return count


async def write_parquet(records: Records, output: Path | None) -> int:
    """To the file, which is whole only when this returns; returns how many rows."""
    assert output is not None, "the command asks for a file"
    import pyarrow as pa  # noqa: PLC0415 - a quarter of a second, and only this format needs it
    import pyarrow.parquet as pq  # noqa: PLC0415

    types = {"timestamp": pa.timestamp("us", tz="UTC")}
    schema = pa.schema([(name, types.get(kind) or getattr(pa, kind)()) for name, kind, _ in _COLUMNS])
    count = 0
    with pq.ParquetWriter(output, schema, compression="zstd") as writer:
        async for page in _pages(records):
            columns = zip(zip(*page, strict=True), schema, strict=True)
            arrays = [pa.array(values, field.type) for values, field in columns]
            writer.write_table(pa.table(arrays, schema=schema))
            count += len(page)
    return count


FORMATS: dict[str, Callable[[Records, Path | None], Awaitable[int]]] = {"csv": write_csv, "parquet": write_parquet}


async def _pages(records: Records) -> AsyncIterator[list[list[Any]]]:
    page: list[list[Any]] = []
    async for number, record in records:
        page.append(list(_values(number, record)))
        if len(page) == _PAGE_ROWS:
            yield page
            page = []
    if page:
        yield page


def _values(number: int, record: RequestRecord) -> Iterable[Any]:
    return (value(number, record) for _, _, value in _COLUMNS)


def _text(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, datetime) else value
