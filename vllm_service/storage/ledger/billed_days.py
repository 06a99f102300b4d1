"""What providers billed for each UTC day, and the ledger's rows of a day for the scaling of their costs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, fields

from vllm_service.domain.bill import DAY_US
from vllm_service.storage.sql.database import Database, Statement

_ROWS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class BilledDay:
    """One provider's bill of one UTC day, in pico-dollars; None is unknown."""

    provider: str
    #: Days since 1970.
    day: int
    gpu_picousd: int | None = None
    cpu_picousd: int | None = None
    disk_picousd: int | None = None
    fee_picousd: int | None = None
    volume_picousd: int | None = None
    #: What was billed for workers' seconds: GPU and CPU, or the whole of a bill without parts.
    compute_picousd: int | None = None
    #: What the bill's totals are more than their parts.
    beyond_parts_picousd: int | None = None
    #: What of the day was booked when the bill was applied; the next four are what compute_picousd is for.
    seen_picousd: int | None = None
    requests_picousd: int | None = None
    earlier_picousd: int | None = None
    nobody_picousd: int | None = None
    unexplained_picousd: int | None = None
    #: Microseconds since 1970.
    fetched_at_us: int
    #: When the rows had their billed costs; None: not yet.
    applied_at_us: int | None = None


@dataclass(frozen=True, slots=True)
class WeighedRow:
    """A row of the ledger by its id, with what was booked to it."""

    row_id: int
    booked_picousd: int


_COLUMNS = tuple(field.name for field in fields(BilledDay))
_NAMES = ", ".join(_COLUMNS)
_PLACES = ", ".join(f"${at}" for at in range(1, len(_COLUMNS) + 1))
_CHANGES = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS[2:])
_PUT = (
    f"INSERT INTO billed_days ({_NAMES}) VALUES ({_PLACES}) "  # noqa: S608
    f"ON CONFLICT (provider, day) DO UPDATE SET {_CHANGES}"
)
_DAYS = f"SELECT {_NAMES} FROM billed_days WHERE day >= $1 AND day <= $2 ORDER BY day, provider"  # noqa: S608
_OF_DAY = "FROM requests WHERE provider = $1 AND started_at_us >= $2 AND started_at_us < $3"
_PARTS = "execution_picousd + cold_start_picousd + idle_picousd"
_SUM = f"SELECT CAST(COALESCE(SUM({_PARTS}), 0) AS BIGINT) {_OF_DAY}"
_PAGE = f"""SELECT id, {_PARTS} {_OF_DAY} AND execution_picousd IS NOT NULL AND id > $4
    ORDER BY id LIMIT {_ROWS_AT_ONCE}"""
_LATEST = f"SELECT MAX(started_at_us) {_OF_DAY} AND execution_picousd IS NOT NULL"
# Rows that are still expected take part in the booking of workers' seconds: what they pay is not final.
_PENDING = f"SELECT COUNT(*) {_OF_DAY} AND cost_basis = 'expected' AND execution_picousd IS NOT NULL"
# No worker's seconds were booked to these rows: they pay what was expected of them, as execution.
_UNBOOKED = "AND execution_picousd IS NULL AND cost_picousd IS NOT NULL"
_ADD_EXPECTED = f"""INSERT INTO booked_days (provider, endpoint_id, day, life_us, execution_picousd, cold_start_picousd,
    idle_picousd, earlier_picousd, nobody_picousd)
    SELECT $1, '', $4, 0, SUM(cost_picousd), 0, 0, 0, 0 {_OF_DAY} {_UNBOOKED} HAVING COUNT(*) > 0
    ON CONFLICT (provider, endpoint_id, day)
    DO UPDATE SET execution_picousd = booked_days.execution_picousd + excluded.execution_picousd"""
_BOOK_EXPECTED = f"""UPDATE requests SET execution_picousd = cost_picousd, cold_start_picousd = 0, idle_picousd = 0,
    cost_basis = 'booked' WHERE provider = $1 AND started_at_us >= $2 AND started_at_us < $3 {_UNBOOKED}"""  # noqa: S608
_SET = "UPDATE requests SET cost_picousd = $1, cost_basis = 'billed' WHERE id = $2"
_APPLIED = "UPDATE billed_days SET applied_at_us = $1 WHERE provider = $2 AND day = $3"


class BilledDayStore:
    """Reads and writes billed days. Every method raises StorageUnavailable when the database is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def days(self, first_day: int, last_day: int) -> list[BilledDay]:
        """Returns the days of all providers, both ends included."""
        rows = await self._database.fetch(_DAYS, first_day, last_day)
        return [BilledDay(**dict(zip(_COLUMNS, row, strict=True))) for row in rows]

    async def put(self, day: BilledDay) -> None:
        """Stores a day in place of what was known of it."""
        await self._database.write(Statement(_PUT, tuple(getattr(day, name) for name in _COLUMNS)))

    async def mark_applied(self, provider: str, day: int, at_us: int) -> None:
        """Notes that the rows of a day have their billed costs."""
        await self._database.write(Statement(_APPLIED, (at_us, provider, day)))

    async def has_pending_rows(self, provider: str, day: int) -> bool:
        """Returns whether requests that began on the day have parts that are not all booked."""
        count = (await self._database.fetch(_PENDING, provider, day * DAY_US, (day + 1) * DAY_US))[0][0]
        return bool(count)

    async def book_expected(self, provider: str, day: int) -> None:
        """Books the expected costs of the day's rows to which nothing is booked, since no worker was seen for them."""
        span = (provider, day * DAY_US, (day + 1) * DAY_US)
        await self._database.write(Statement(_ADD_EXPECTED, (*span, day)), Statement(_BOOK_EXPECTED, span))

    async def booked_picousd(self, provider: str, day: int) -> int:
        """Returns what is booked to the rows of requests that began on the day."""
        total: int = (await self._database.fetch(_SUM, provider, day * DAY_US, (day + 1) * DAY_US))[0][0]
        return total

    async def pages(self, provider: str, day: int) -> AsyncIterator[list[WeighedRow]]:
        """Yields the day's rows in the order of their ids, a page at a time."""
        last = 0
        while page := await self._database.fetch(_PAGE, provider, day * DAY_US, (day + 1) * DAY_US, last):
            yield [WeighedRow(*row) for row in page]
            last = page[-1][0]

    async def latest_day_with_rows(self, provider: str, before_day: int, back_days: int) -> int | None:
        """Returns the last day before `before_day` on which a request began that pays; None within `back_days`."""
        first = (before_day - back_days) * DAY_US
        latest = (await self._database.fetch(_LATEST, provider, first, before_day * DAY_US))[0][0]
        return None if latest is None else int(latest) // DAY_US

    async def set_billed(self, rows: Sequence[WeighedRow], costs_picousd: Sequence[int]) -> None:
        """Sets the billed costs of a page of rows, in one transaction. Their booked parts stay."""
        pairs = zip(rows, costs_picousd, strict=True)
        await self._database.write(*(Statement(_SET, (cost, row.row_id)) for row, cost in pairs))
