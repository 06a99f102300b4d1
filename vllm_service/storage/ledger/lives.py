"""The lives of workers and what was booked of them, in the database. Only the holder of the lease writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vllm_service.domain.bill import DAY_US
from vllm_service.domain.cost_basis import CostParts
from vllm_service.domain.worker_lives import Keeper, KnownBy, LedgerRow, WorkerLife
from vllm_service.storage.ledger.writers import complete_until_us
from vllm_service.storage.sql.database import Database, Statement, Value

#: RunPod lets a job wait and run for a day at most, unless its TTL is set (as of 2026-11).
LONGEST_REQUEST_US = DAY_US
#: A row that waited for so long, because nothing was booked, stays as it is: nothing is known of its worker any more.
LONGEST_WAIT_US = 7 * LONGEST_REQUEST_US

_SEEN = (
    *("worker_id", "known_by", "last_seen_us", "gpu_type", "gpu_count", "data_center", "picousd_per_microsecond"),
    *("ready_at_us", "stopped_at_us", "uncertain_us", "running_spans", "is_settled"),
)
_COLUMNS = (
    *("life_id", "provider", "endpoint_id", "started_at_us", "booked_until_us", "booked_picousd", "keepers"),
    *_SEEN,
)
_NAMES = ", ".join(_COLUMNS)
_PUT = (
    f"INSERT INTO worker_lives ({_NAMES}) VALUES ({', '.join(f'${at}' for at in range(1, len(_COLUMNS) + 1))}) "  # noqa: S608
    f"ON CONFLICT (life_id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _SEEN)}, "
    # A list may name a life that was only counted, and knows its start; not once something of it is booked.
    + ", ".join(
        f"{name} = CASE WHEN worker_lives.keepers IS NULL THEN excluded.{name} ELSE worker_lives.{name} END"
        for name in ("started_at_us", "booked_until_us")
    )
)
_OVERLAPPING = f"""SELECT {_NAMES} FROM worker_lives WHERE provider = $1 AND started_at_us < $2
    AND (stopped_at_us IS NULL OR stopped_at_us > $3) ORDER BY started_at_us"""  # noqa: S608
_UNSETTLED = f"SELECT {_NAMES} FROM worker_lives WHERE is_settled = 0 ORDER BY started_at_us"  # noqa: S608
_RECENT = f"""SELECT {_NAMES} FROM worker_lives WHERE is_settled = 1 AND provider = $1 AND started_at_us > $2
    AND stopped_at_us > $3"""  # noqa: S608
# The end of a row by its own figures. The index on (provider, started_at_us) holds the rows that wait, and no other.
_ENDED = "started_at_us + CAST(COALESCE(total_ms, 0) * 1000 AS BIGINT)"
_PENDING = f"""SELECT id, started_at_us, {_ENDED}, outcome, ttft_ms, prompt_tokens FROM requests
    WHERE cost_basis = 'expected' AND provider = $1"""  # noqa: S608
_PENDING_AT = f"""{_PENDING} AND started_at_us >= $2 AND started_at_us < $3 AND {_ENDED} >= $4
    ORDER BY started_at_us, id LIMIT $5"""
_PENDING_ENDED = f"""{_PENDING} AND started_at_us >= $2 AND started_at_us < $3 AND {_ENDED} <= $3
    ORDER BY started_at_us, id LIMIT $4"""
# The NULL refuses a slice that is already booked: then the whole transaction is.
_MOVE = """UPDATE worker_lives SET booked_until_us = CASE WHEN booked_until_us = $1 THEN CAST($2 AS BIGINT) END,
    booked_picousd = $3, keepers = $4, is_settled = $5, running_spans = $6 WHERE life_id = $7"""
_ADD = """UPDATE requests SET execution_picousd = COALESCE(execution_picousd, 0) + $1,
    cold_start_picousd = COALESCE(cold_start_picousd, 0) + $2, idle_picousd = COALESCE(idle_picousd, 0) + $3,
    cost_picousd = CASE WHEN cost_basis = 'booked' OR (cost_basis = 'billed' AND NOT EXISTS (SELECT 1 FROM billed_days
        WHERE billed_days.provider = requests.provider AND day = $5 AND applied_at_us IS NOT NULL))
        THEN COALESCE(cost_picousd, 0) + $4 ELSE cost_picousd END
    WHERE id = $6"""
_DAY_SUMS = ("life_us", "execution_picousd", "cold_start_picousd", "idle_picousd", "earlier_picousd", "nobody_picousd")
_ADD_DAY = (
    f"INSERT INTO booked_days (provider, endpoint_id, day, {', '.join(_DAY_SUMS)}) "  # noqa: S608
    "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (provider, endpoint_id, day) DO UPDATE SET "
    + ", ".join(f"{name} = booked_days.{name} + excluded.{name}" for name in _DAY_SUMS)
)
_SETTLE_ROW = """UPDATE requests SET cost_basis = 'booked', execution_picousd = COALESCE(execution_picousd, 0),
    cold_start_picousd = COALESCE(cold_start_picousd, 0), idle_picousd = COALESCE(idle_picousd, 0),
    cost_picousd = COALESCE(execution_picousd, 0) + COALESCE(cold_start_picousd, 0) + COALESCE(idle_picousd, 0)
    WHERE id = $1 AND cost_basis = 'expected'"""
_DAYS = f"""SELECT provider, endpoint_id, day, {", ".join(_DAY_SUMS)} FROM booked_days
    WHERE provider = $1 AND day >= $2 AND day < $3 ORDER BY day"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class BookedDay:
    """The bookings of the worker seconds of one UTC day at one endpoint."""

    provider: str
    endpoint_id: str
    #: Days since 1970.
    day: int
    life_us: int
    execution_picousd: int
    cold_start_picousd: int
    idle_picousd: int
    #: Of the three, what requests pay that began on a day before.
    earlier_picousd: int
    #: What no request caused.
    nobody_picousd: int


class LifeStore:
    """Reads lives and bookings, and makes the statements that write them. Reading raises StorageUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def unsettled(self) -> list[WorkerLife]:
        """Returns the lives that are not booked to their end, of all providers, by their start."""
        return [_life(row) for row in await self._database.fetch(_UNSETTLED)]

    async def recently_settled(self, provider: str, since_us: int) -> list[WorkerLife]:
        """Returns the settled lives that stopped after `since_us`, in case their workers are seen again."""
        rows = await self._database.fetch(_RECENT, provider, since_us - LONGEST_REQUEST_US, since_us)
        return [_life(row) for row in rows]

    async def overlapping(self, provider: str, first_us: int, last_us: int) -> list[WorkerLife]:
        """Returns the lives that have a moment from first_us until before last_us, by their start."""
        return [_life(row) for row in await self._database.fetch(_OVERLAPPING, provider, last_us, first_us)]

    async def pending_rows(self, provider: str, since_us: int, until_us: int, limit: int) -> list[LedgerRow]:
        """Returns the rows that wait to be booked, began before until_us, and had not ended before since_us.

        They are in the order of their begins; of more than `limit` the first ones.
        """
        values = (provider, since_us - LONGEST_REQUEST_US, until_us, since_us, limit)
        return [_pending(row) for row in await self._database.fetch(_PENDING_AT, *values)]

    async def ended_rows(self, provider: str, until_us: int, limit: int) -> list[LedgerRow]:
        """Returns the rows that wait to be booked and have ended, as pending_rows does, but for those of long ago."""
        values = (provider, until_us - LONGEST_WAIT_US, until_us, limit)
        return [_pending(row) for row in await self._database.fetch(_PENDING_ENDED, *values)]

    async def days(self, provider: str, first_day: int, last_day: int) -> list[BookedDay]:
        """Returns what was booked, by the day of the seconds; both days included, as days since 1970."""
        return [BookedDay(*row) for row in await self._database.fetch(_DAYS, provider, first_day, last_day + 1)]

    async def complete_until_us(self) -> int | None:
        """Returns the moment before which every request that began has its row; see writers.complete_until_us."""
        return await complete_until_us(self._database)

    async def booked_until(self, provider: str) -> int | None:
        """Returns the moment until which every life of the provider is booked; None: all are to their end."""
        sql = "SELECT MIN(booked_until_us) FROM worker_lives WHERE is_settled = 0 AND provider = $1"
        until: int | None = (await self._database.fetch(sql, provider))[0][0]
        return until


def put(life: WorkerLife) -> Statement:
    """Returns the statement that stores a life as it is seen. What is booked of one that is stored stays."""
    values: list[Value] = []
    for name in _COLUMNS:
        value: Any = getattr(life, name)
        values.append(_TO_ROW[name](value) if name in _TO_ROW else value)
    return Statement(_PUT, tuple(values))


def move(life: WorkerLife, before_us: int) -> Statement:
    """Returns the statement that notes until when a life is booked; refused unless it was until `before_us`."""
    spans = json.dumps(life.running_spans)
    values = (before_us, life.booked_until_us, life.booked_picousd, _keepers(life.keepers), int(life.is_settled), spans)
    return Statement(_MOVE, (*values, life.life_id))


def add(parts: Mapping[int, CostParts], day: int) -> list[Statement]:
    """Returns the statements that add parts to the costs of rows, by their ids.

    day: that of the seconds, as days since 1970. A billed row goes on to pay for a later day until that is billed too.
    """
    return [
        Statement(
            _ADD,
            (one.execution_picousd, one.cold_start_picousd, one.idle_picousd, one.total_picousd, day, row_id),
        )
        for row_id, one in sorted(parts.items())
    ]


def add_to_day(day: BookedDay) -> Statement:
    """Returns the statement that adds to the sums of a day."""
    sums = tuple(getattr(day, name) for name in _DAY_SUMS)
    return Statement(_ADD_DAY, (day.provider, day.endpoint_id, day.day, *sums))


def settle_unpriced(life: WorkerLife) -> Statement:
    """Returns the statement that ends a life which is never booked, because its price is unknown."""
    return Statement("UPDATE worker_lives SET is_settled = 1 WHERE life_id = $1", (life.life_id,))


def settle_rows(row_ids: Sequence[int]) -> list[Statement]:
    """Returns the statements that make booked rows of expected ones: their cost is the sum of their parts."""
    return [Statement(_SETTLE_ROW, (row_id,)) for row_id in sorted(row_ids)]


def _pending(row: Sequence[Any]) -> LedgerRow:
    row_id, started, ended, outcome, ttft_ms, prompt_tokens = row
    is_answered = outcome == "completed" or ttft_ms is not None or prompt_tokens is not None
    return LedgerRow(row_id, started, max(started, ended), is_answered)


def _keepers(keepers: tuple[Keeper, ...] | None) -> str | None:
    return None if keepers is None else json.dumps([[one.row_id, one.started_at_us] for one in keepers])


_TO_ROW: Mapping[str, Callable[[Any], Value]] = {
    "keepers": _keepers,
    "running_spans": json.dumps,
    "known_by": str,
    "is_settled": int,
}


def _life(row: Sequence[Any]) -> WorkerLife:
    fields = dict(zip(_COLUMNS, row, strict=True))
    keepers = fields.pop("keepers")
    return WorkerLife(
        **fields
        | {
            "known_by": KnownBy(fields["known_by"]),
            "is_settled": bool(fields["is_settled"]),
            "running_spans": tuple((begin, end) for begin, end in json.loads(fields["running_spans"])),
            "keepers": None if keepers is None else tuple(Keeper(*pair) for pair in json.loads(keepers)),
        }
    )
