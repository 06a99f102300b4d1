"""Rows of the ledger from its CSV export, plain or gzipped; columns are found by name, and may be missing."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, TextIO

from vllm_service.domain.money import picousd
from vllm_service.domain.requests import Outcome, RequestRecord
from vllm_service.errors import ConfigurationError
from vllm_service.storage.ledger.columns import COLUMNS, MOMENT
from vllm_service.storage.ledger.rows import built

Row = Mapping[str, str | None]
# What a record cannot be without, where the export has no such column.
_ABSENT: Mapping[str, Any] = {
    **dict.fromkeys(("request_id", "key_id", "organisation", "operation", "model"), ""),
    "outcome": Outcome.COMPLETED,
    "status": 0,
}


class CsvLedger:
    """An export. Raises ConfigurationError, with the line, for a row that cannot be read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __iter__(self) -> Iterator[RequestRecord]:
        """Reads the file anew each time, one row in memory."""
        number = 0
        try:
            with self._open() as file:
                rows = csv.DictReader(file)
                for row in rows:
                    number = rows.line_num
                    yield _record(row)
        except (OSError, EOFError) as error:
            raise ConfigurationError(f"the ledger cannot be read: {error}") from None
        except (KeyError, ValueError, InvalidOperation, csv.Error) as error:
            raise ConfigurationError(f"{self._path}: line {number} is no row of the ledger: {error}") from None

    def _open(self) -> AbstractContextManager[TextIO]:
        if self._path.suffix == ".gz":
            return gzip.open(self._path, "rt", encoding="utf-8", newline="")
        return self._path.open(encoding="utf-8", newline="")


def _record(row: Row) -> RequestRecord:
    known = {column.field: column.kind.from_text(text) for column in COLUMNS if (text := row.get(column.export_name))}
    known |= {"started_at": _started_at(row), "cost_picousd": _cost(row)}
    return built({**_ABSENT, **known})


def _started_at(row: Row) -> float:
    """Seconds since 1970, from `started_at_us`, or `started_at` as a number or RFC 3339."""
    if microseconds := row.get("started_at_us"):
        return int(microseconds) / 1_000_000
    if text := row.get("started_at"):
        return float(MOMENT.from_text(text))
    raise ValueError("it has neither started_at nor started_at_us")


def _cost(row: Row) -> int | None:
    """Pico-dollars, from `cost_picousd` or `cost_usd`; empty is unknown."""
    if exact := row.get("cost_picousd"):
        return int(exact)
    usd = row.get("cost_usd")
    return picousd(Decimal(usd)) if usd else None
