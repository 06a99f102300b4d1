"""Rows of the ledger from its CSV export, plain or gzipped; columns are found by name, and may be missing."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TextIO

from vllm_service.domain.moments import utc_seconds
from vllm_service.domain.money import picousd
from vllm_service.domain.requests import Outcome, RequestRecord
from vllm_service.errors import ConfigurationError

Row = Mapping[str, str | None]


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
    return RequestRecord(
        request_id=row.get("request_id") or "",
        started_at=_started_at(row),
        key_id=row.get("key_id") or "",
        organisation=row.get("organisation") or "",
        operation=row.get("operation") or "",
        model=row.get("model") or "",
        outcome=Outcome(row.get("outcome") or "completed"),
        status=int(row.get("status") or 0),
        provider=row.get("provider") or None,
        cost_picousd=_cost(row),
        total_ms=float(total) if (total := row.get("total_ms")) else None,
    )


def _started_at(row: Row) -> float:
    """Seconds since 1970, from `started_at_us`, or `started_at` as a number or RFC 3339."""
    if microseconds := row.get("started_at_us"):
        return int(microseconds) / 1_000_000
    text = row.get("started_at")
    if not text:
        raise ValueError("it has neither started_at nor started_at_us")
    try:
        return float(text)
    except ValueError:
        return utc_seconds(text)


def _cost(row: Row) -> int | None:
    """Pico-dollars, from `cost_picousd` or `cost_usd`; empty is unknown."""
    if exact := row.get("cost_picousd"):
        return int(exact)
    usd = row.get("cost_usd")
    return picousd(Decimal(usd)) if usd else None
