"""A RequestRecord as the table, exports, the access log and spans have it, and back: by the table of columns."""

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

    A request pays for this: getters are prepared, and only what needs a conversion is touched again.
    """
    usage_at = [place for place, column in enumerate(columns) if column.of_usage]
    first, end = usage_at[0], usage_at[-1] + 1
    assert usage_at == list(range(first, end)), "columns of the usage stand together"
    before, of_usage, after = (_getter(part) for part in (columns[:first], columns[first:end], columns[end:]))
    no_usage = (None,) * (end - first)
    converts = [(place, convert) for place, column in enumerate(columns) if (convert := conversion(column)) is not same]

    def read(record: RequestRecord) -> list[Any]:
        usage = record.usage
        values = [*before(record), *(no_usage if usage is None else of_usage(usage)), *after(record)]
        for place, convert in converts:
            value = values[place]
            if value is not None:
                values[place] = convert(value)
        return values

    return read


def _getter(columns: Sequence[LedgerColumn]) -> Callable[[Any], tuple[Any, ...]]:
    assert len(columns) > 1, "of a single one attrgetter would return no tuple"
    return attrgetter(*(column.field for column in columns))


_row = _reader(COLUMNS, lambda column: column.kind.to_row)
_exported = _reader(COLUMNS, lambda column: column.kind.to_export)
_logged = _reader(_LOGGED, lambda column: column.kind.to_shown)
_in_span = _reader(_IN_SPANS, lambda column: column.kind.to_shown)


def row_of(record: RequestRecord, writer: int, sequence: int) -> tuple[Value, ...]:
    """Returns values in the order of columns.REQUESTS."""
    return (writer, sequence, *_row(record))


def record_of(row: Sequence[Any]) -> RequestRecord:
    """The reverse of `row_of`: `row` in the same order."""
    _, _, *values = row
    return built(
        {
            column.field: column.kind.from_row(value)
            for column, value in zip(COLUMNS, values, strict=True)
            if value is not None
        }
    )


def built(known: Mapping[str, Any]) -> RequestRecord:
    """Returns the record of these fields, those of its usage among them. What is not among them is not known."""
    of_usage = {column.field: known[column.field] for column in COLUMNS if column.of_usage and column.field in known}
    of_record = {name: value for name, value in known.items() if name not in of_usage}
    is_counted = "prompt_tokens" in of_usage and "completion_tokens" in of_usage
    return RequestRecord(usage=Usage(**of_usage) if is_counted else None, **of_record)


def exported(number: int, record: RequestRecord) -> list[Any]:
    """Returns values in the order of EXPORT_NAMES. number: the row's id."""
    return [number, *_exported(record)]


def logged(record: RequestRecord) -> dict[str, Any]:
    """Returns what the access log says of a request. key_id names a key, it is not the key."""
    return dict(zip(_LOG_NAMES, _logged(record), strict=True))


def span_attributes(record: RequestRecord) -> dict[str, str | bool | int | float]:
    """Returns what is known of a request, named by OpenTelemetry's conventions where there is one."""
    pairs = zip(_SPAN_NAMES, _in_span(record), strict=True)
    return {name: value for name, value in pairs if value is not None and value != ""}


def mended(row: tuple[Value, ...]) -> tuple[Value, ...]:
    """Returns a row as any database takes it: without NUL, half surrogates, endless texts."""
    return tuple(_mend(value, None if at == _LABELS_AT else _LONGEST_TEXT) for at, value in enumerate(row))


def _mend(value: Value, longest: int | None) -> Value:
    if isinstance(value, str):
        return value.replace("\0", "").encode("utf-8", "replace").decode()[:longest]
    return value
