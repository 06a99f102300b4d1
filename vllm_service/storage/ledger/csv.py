"""Reads ledger rows from a CSV export, plain or gzipped. Columns are found by name, and may be missing.

A spreadsheet takes a cell that begins with one of FORMULA_BEGINS for a formula, and some texts (labels, models, users)
are the callers' own. So an export puts a quote before such a text, and the reader takes it off again.
"""

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
from vllm_service.storage.ledger.columns import COLUMNS, TIMESTAMP
from vllm_service.storage.ledger.rows import record_from

Row = Mapping[str, str | None]
_QUOTE = "'"
#: The last four are the wide forms, which spreadsheets take for the narrow ones.
FORMULA_BEGINS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
#: A text that begins with a quote gets another one, or the reader could not know it from one that was put there.
_QUOTED_BEGINS = (*FORMULA_BEGINS, _QUOTE)
# Values of the fields that a record must have, for exports that lack their columns.
_ABSENT: Mapping[str, Any] = {
    **dict.fromkeys(("request_id", "key_id", "organisation", "operation", "model"), ""),
    "outcome": Outcome.COMPLETED,
    "status": 0,
}


def cell(value: Any) -> Any:
    """Returns the value as a cell that no spreadsheet takes for a formula. Numbers and times stay what they are."""
    if isinstance(value, str) and value.startswith(_QUOTED_BEGINS):
        return _QUOTE + value
    return value


def cell_text(text: str) -> str:
    """Returns the text of a cell that `cell` made."""
    if text.startswith(_QUOTE) and text.startswith(_QUOTED_BEGINS, 1):
        return text[1:]
    return text


class CsvLedger:
    """A CSV export. Iteration raises ConfigurationError, with the line, for a row that cannot be read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __iter__(self) -> Iterator[RequestRecord]:
        """Yields the records. Each iteration reads the file from its beginning, with one row in memory."""
        number = 0
        try:
            with self._open() as file:
                rows = csv.DictReader(file)
                for row in rows:
                    number = rows.line_num
                    yield _record(row)
        except (OSError, EOFError) as error:
            raise ConfigurationError(
                f"the ledger cannot be read: {error}. Name a file that `ledger export` wrote."
            ) from None
        except (KeyError, ValueError, InvalidOperation, csv.Error) as error:
            raise ConfigurationError(
                f"{self._path}: line {number} is not a row of the ledger: {error}. "
                "Export the file again, or correct the line."
            ) from None

    def _open(self) -> AbstractContextManager[TextIO]:
        if self._path.suffix == ".gz":
            return gzip.open(self._path, "rt", encoding="utf-8", newline="")
        return self._path.open(encoding="utf-8", newline="")


def _record(row: Row) -> RequestRecord:
    known = {
        column.field: column.kind.from_text(cell_text(text))
        for column in COLUMNS
        if (text := row.get(column.export_name))
    }
    known |= {"started_at": _started_at(row), "cost_picousd": _cost(row)}
    return record_from({**_ABSENT, **known})


def _started_at(row: Row) -> float:
    """Returns seconds since 1970, from `started_at_us`, or from `started_at` as a number or RFC 3339."""
    if microseconds := row.get("started_at_us"):
        return int(microseconds) / 1_000_000
    if text := row.get("started_at"):
        return float(TIMESTAMP.from_text(text))
    raise ValueError("started_at and started_at_us are missing or empty")


def _cost(row: Row) -> int | None:
    """Returns pico-dollars, from `cost_picousd` or `cost_usd`; None where both are missing or empty."""
    if exact := row.get("cost_picousd"):
        return int(exact)
    usd = row.get("cost_usd")
    return picousd(Decimal(usd)) if usd else None
