"""The protocol of a SQL database: statements in, tuples out. Callers write their SQL once, for SQLite and Postgres.

Placeholders are `$1, $2`. Booleans are 0 and 1. Times are integer microseconds since 1970. Implementations raise
StorageUnavailable when the database cannot be reached or cannot do it now, SchemaRefused when it lacks a table or a
column, and RowsRefused when the values themselves are at fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from vllm_service.errors import StorageRefused, StorageUnavailable

Value = str | int | float | None


class RowsRefused(StorageRefused):
    """The database answers and will never accept these values: a text with NUL, a number beyond 64 bits."""


class SchemaRefused(StorageUnavailable):
    """The database answers and has no such table or column as a statement names. Waiting alone does not help."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table, typed for both databases."""

    name: str
    #: A Postgres type that SQLite maps to the right affinity: BIGINT, TEXT or DOUBLE PRECISION.
    type: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table that rows are appended to."""

    name: str
    #: Without `id`, which the database makes and which grows.
    columns: tuple[Column, ...]
    #: The columns that identify a row. A row that is sent twice is stored once.
    unique: tuple[str, ...]

    @property
    def column_names(self) -> str:
        """The names as an INSERT lists them."""
        return ", ".join(column.name for column in self.columns)


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement with its values."""

    sql: str
    values: tuple[Value, ...] = ()


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows to append. A row that is stored already stays as it is."""

    table: Table
    rows: Sequence[tuple[Value, ...]]


class Database(Protocol):
    """An open database."""

    async def fetch(self, sql: str, *values: Value) -> list[tuple[Any, ...]]:
        """Returns the rows of a SELECT or of a statement with RETURNING."""
        ...

    async def write(self, *steps: Statement | Rows) -> None:
        """Executes all steps in one transaction, durable when this returns, or none of them."""
        ...

    async def close(self) -> None:
        """Waits for the statements in progress, and closes files and connections."""
        ...
