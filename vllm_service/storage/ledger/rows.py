"""Converts a RequestRecord to the values of the table, exports, the access log and spans, and back, by COLUMNS."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from vllm_service.domain.requests import RequestRecord
from vllm_service.domain.usage import Usage
from vllm_service.storage.ledger.columns import COLUMNS, Convert, LedgerColumn, same
from vllm_service.storage.sql.database import Value

_LONGEST_TEXT = 512
# Labels are bounded where they come in; a JSON object that is cut would be none. `writer` and `sequence` stand first.
_LABELS_AT = 2 + [column.field for column in COLUMNS].index("labels")
_LOGGED = tuple(column for column in COLUMNS if column.logged)
_IN_SPANS = tuple(column for column in COLUMNS if column.span)
_LOG_NAMES = tuple(str(column.logged) for column in _LOGGED)
_SPAN_NAMES = tuple(str(column.span) for column in _IN_SPANS)
EXPORT_NAMES = ("id", *(column.export_name for column in COLUMNS))
Read = Callable[[RequestRecord], list[Any]]


def _reader(columns: Sequence[LedgerColumn], conversion: Callable[[LedgerColumn], Convert]) -> Read:
    """Returns a function that reads these columns of a record, converted.

    Every request runs it. So the getters are prepared once, and only values that need a conversion are touched again.
    """
    usage_at = [position for position, column in enumerate(columns) if column.of_usage]
    first, end = usage_at[0], usage_at[-1] + 1
    assert usage_at == list(range(first, end)), "columns of the usage have to be neighbours: one getter reads them all"
    before, of_usage, after = (_getter(part) for part in (columns[:first], columns[first:end], columns[end:]))
    no_usage = (None,) * (end - first)
    found = ((position, conversion(column)) for position, column in enumerate(columns))
    converts = [(position, convert) for position, convert in found if convert is not same]

    def read(record: RequestRecord) -> list[Any]:
        usage = record.usage
        values = [*before(record), *(no_usage if usage is None else of_usage(usage)), *after(record)]
        for position, convert in converts:
            value = values[position]
            if value is not None:
                values[position] = convert(value)
        return values

    return read


def _getter(columns: Sequence[LedgerColumn]) -> Callable[[Any], tuple[Any, ...]]:
    assert len(columns) > 1, "attrgetter returns no tuple for a single name"
    return attrgetter(*(column.field for column in columns))


_row = _reader(COLUMNS, lambda column: column.kind.to_row)
_exported = _reader(COLUMNS, lambda column: column.kind.to_export)
_logged = _reader(_LOGGED, lambda column: column.kind.to_shown)
_in_span = _reader(_IN_SPANS, lambda column: column.kind.to_shown)


def row_of(record: RequestRecord, writer: int, sequence: int) -> tuple[Value, ...]:
    """Returns the values in the order of columns.REQUESTS."""
    return (writer, sequence, *_row(record))


def record_of(row: Sequence[Any]) -> RequestRecord:
    """Returns the record of a row, the reverse of `row_of`."""
    _, _, *values = row
    return record_from(
        {
            column.field: column.kind.from_row(value)
            for column, value in zip(COLUMNS, values, strict=True)
            if value is not None
        }
    )


def record_from(known: Mapping[str, Any]) -> RequestRecord:
    """Returns the record with these fields, those of its Usage included. Missing fields are unknown."""
    of_usage = {column.field: known[column.field] for column in COLUMNS if column.of_usage and column.field in known}
    of_record = {name: value for name, value in known.items() if name not in of_usage}
    is_counted = "prompt_tokens" in of_usage and "completion_tokens" in of_usage
    return RequestRecord(usage=Usage(**of_usage) if is_counted else None, **of_record)


def exported(number: int, record: RequestRecord) -> list[Any]:
    """Returns the values in the order of EXPORT_NAMES. number: the row's id."""
    return [number, *_exported(record)]


def logged(record: RequestRecord) -> dict[str, Any]:
    """Returns the fields of the access log. `key_id` names a key and is not secret."""
    return dict(zip(_LOG_NAMES, _logged(record), strict=True))


def span_attributes(record: RequestRecord) -> dict[str, str | bool | int | float]:
    """Returns the known attributes of a request's span, by OpenTelemetry's conventions where there is one."""
    pairs = zip(_SPAN_NAMES, _in_span(record), strict=True)
    return {name: value for name, value in pairs if value is not None and value != ""}


def sanitised(row: tuple[Value, ...]) -> tuple[Value, ...]:
    """Returns the row with texts that any database accepts: no NUL, no lone surrogate, bounded. Numbers stay exact."""
    return tuple(_sanitise(value, None if at == _LABELS_AT else _LONGEST_TEXT) for at, value in enumerate(row))


def _sanitise(value: Value, longest: int | None) -> Value:
    if isinstance(value, str):
        return value.replace("\0", "").encode("utf-8", "replace").decode()[:longest]
    return value
