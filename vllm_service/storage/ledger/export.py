"""Writes the ledger as CSV or Parquet: the same columns, with one page of rows in memory."""

from __future__ import annotations

import csv
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

from vllm_service.domain.requests import RequestRecord
from vllm_service.storage.ledger.columns import COLUMNS
from vllm_service.storage.ledger.csv import cell
from vllm_service.storage.ledger.rows import EXPORT_NAMES, exported

Records = AsyncIterator[tuple[int, RequestRecord]]
_PAGE_ROWS = 5_000


async def write_csv(records: Records, output: Path | None) -> int:
    """Writes to the file, or to standard output; returns the number of rows. Unknown is empty; times are RFC 3339."""
    count = 0
    with output.open("w", encoding="utf-8", newline="") if output else nullcontext(sys.stdout) as file:
        lines = csv.writer(file)
        lines.writerow(EXPORT_NAMES)
        async for number, record in records:
            lines.writerow([_text(value) for value in exported(number, record)])
            count += 1
    return count


async def write_parquet(records: Records, output: Path | None) -> int:
    """Writes to the file, which is complete only when this returns; returns the number of rows."""
    assert output is not None, "the command requires a file for Parquet"
    import pyarrow as pa  # noqa: PLC0415 - a quarter of a second, and only this format needs it
    import pyarrow.parquet as pq  # noqa: PLC0415

    types = {"timestamp": pa.timestamp("us", tz="UTC")}
    kinds = ("int64", *(column.kind.arrow for column in COLUMNS))
    named = zip(EXPORT_NAMES, kinds, strict=True)
    schema = pa.schema([(name, types.get(kind) or getattr(pa, kind)()) for name, kind in named])
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
        page.append(exported(number, record))
        if len(page) == _PAGE_ROWS:
            yield page
            page = []
    if page:
        yield page


def _text(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, datetime) else cell(value)
