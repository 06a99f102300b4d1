"""The seam to a SQL database: statements in, tuples out. The SQL above it is written once, for SQLite and Postgres.

Placeholders are `$1, $2`; booleans are 0 and 1; times are integer microseconds since 1970. Implementations raise
StorageUnavailable when the database is away or cannot do it now, SchemaRefused when it lacks a table or a column, and
RowsRefused when the values themselves are at fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from vllm_service.errors import ServiceError, StorageUnavailable

Value = str | int | float | None


class RowsRefused(ServiceError):
    """The database is there and will never take these values: a text with NUL, a number beyond 64 bits."""

    code = "ROWS_REFUSED_500"


class SchemaRefused(StorageUnavailable):
    """The database is there and does not know what a statement names; waiting alone does not help."""


@dataclass(frozen=True, slots=True)
class Column:
    """`type` is a Postgres type that SQLite reads as the affinity it should: BIGINT, TEXT, DOUBLE PRECISION."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table that rows are appended to. `unique`: columns by which a row that comes twice is known and ignored.

    Its `id` column is made by the database and grows.
    """

    name: str
    columns: tuple[Column, ...]
    unique: tuple[str, ...]

    @property
    def column_names(self) -> str:
        """As they stand in an INSERT."""
        return ", ".join(column.name for column in self.columns)


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement with its values."""

    sql: str
    values: tuple[Value, ...] = ()


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows to append; those that are there already are left as they are."""

    table: Table
    rows: Sequence[tuple[Value, ...]]


class Database(Protocol):
    """A database that is open."""

    async def fetch(self, sql: str, *values: Value) -> list[tuple[Any, ...]]:
        """The rows that a statement gives; also of INSERT ... RETURNING."""
        ...

    async def write(self, *steps: Statement | Rows) -> None:
        """All of these or none, durable when this returns."""
        ...

    async def close(self) -> None:
        """Ends what runs and lets go of files and connections."""
        ...
