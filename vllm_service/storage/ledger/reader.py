"""Reads the ledger: exact totals, rows for export, and the deletion of old rows."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from vllm_service.domain.cost_basis import CostBasis
from vllm_service.domain.quotas import SECONDS_PER_DAY
from vllm_service.domain.requests import Outcome, RequestRecord
from vllm_service.domain.spend import ProviderSpend
from vllm_service.storage.ledger.columns import REQUESTS
from vllm_service.storage.ledger.rows import record_of
from vllm_service.storage.ledger.spend import spend_by_day
from vllm_service.storage.ledger.writers import LostWriter, Refusal, lost_writers, refusals
from vllm_service.storage.sql.database import Database, Statement, Value

_US = 1_000_000
#: The end of the year 9999, in days since 1970.
_LAST_DAY = 2_932_896
_PAGE_ROWS = 5_000
_PRUNE_LIVES = "DELETE FROM worker_lives WHERE is_settled = 1 AND stopped_at_us < $1"


class GroupBy(StrEnum):
    """The columns that totals can be grouped by. `day` is a UTC day, as days since 1970."""

    ORGANISATION = "organisation"
    KEY = "key_id"
    MODEL = "model"
    PROVIDER = "provider"
    OUTCOME = "outcome"
    DAY = "day"


@dataclass(frozen=True, slots=True)
class Window:
    """A span of time, by when requests began, in seconds since 1970; None is open."""

    #: Inclusive.
    since: float | None = None
    #: Exclusive.
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """Exact sums over a group of requests, in the order of _SUMS."""

    #: The group's values, in the order of `by`.
    group: tuple[str | int | None, ...]
    requests: int
    completed: int
    cancelled: int
    failed: int
    rejected: int
    cached: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    cost_picousd: int
    #: Parts of cost_picousd by what they rest on (domain.cost_basis). What is in none of them is from rows that are
    #: older than the column.
    expected_cost_picousd: int
    booked_cost_picousd: int
    billed_cost_picousd: int
    #: What the requests whose cost is known would have cost at the baseline.
    baseline_picousd: int
    #: The cost of those requests whose baseline is known too: baseline_picousd minus this is what was saved.
    compared_cost_picousd: int
    #: Requests of which a provider's work has an unknown cost, which is no part of cost_picousd.
    unpriced_requests: int
    #: Requests of unknown tokens.
    uncounted_requests: int
    #: Requests whose tokens were estimated, not counted by the provider.
    estimated_requests: int


def _outcome(outcome: Outcome) -> str:
    return f"CASE WHEN outcome = '{outcome.value}' THEN 1 ELSE 0 END"


def _of_basis(basis: CostBasis) -> str:
    return f"CASE WHEN cost_basis = '{basis.value}' THEN cost_picousd ELSE 0 END"


# A cost that is compared with the baseline leaves out the requests of which one of the two is unknown; else an unknown
# cost would look like a saving.
_SUMS = (
    *(_outcome(outcome) for outcome in (Outcome.COMPLETED, Outcome.CANCELLED, Outcome.FAILED, Outcome.REJECTED)),
    _outcome(Outcome.CACHED),
    *("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens"),
    "cost_picousd",
    *(_of_basis(basis) for basis in (CostBasis.EXPECTED, CostBasis.BOOKED, CostBasis.BILLED)),
    "CASE WHEN cost_picousd IS NULL THEN NULL ELSE baseline_picousd END",
    "CASE WHEN baseline_picousd IS NULL THEN NULL ELSE cost_picousd END",
    # As RequestRecord.is_unpriced.
    "CASE WHEN cost_picousd IS NULL AND (prompt_tokens IS NOT NULL OR outcome = 'completed') THEN 1 ELSE 0 END",
    "CASE WHEN prompt_tokens IS NULL THEN 1 ELSE 0 END",
    "usage_estimated",
)
# Postgres sums BIGINT to NUMERIC, which would arrive as Decimal: hence the CAST.
_TOTALS = ", ".join(["COUNT(*)", *(f"CAST(COALESCE(SUM({term}), 0) AS BIGINT)" for term in _SUMS)])
_DAY = f"started_at_us / {SECONDS_PER_DAY * _US}"


class LedgerReader:
    """Reads and prunes the ledger. Every method raises StorageUnavailable when the database is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def totals(self, by: Sequence[GroupBy] = (), window: Window = Window()) -> list[Totals]:
        """Returns the totals of each group that has requests, sorted by group; without `by`, those of all requests."""
        groups = [_DAY if group is GroupBy.DAY else group.value for group in by]
        where, values = _where(window)
        positions = ", ".join(str(position) for position in range(1, len(groups) + 1))
        grouping = f" GROUP BY {positions} ORDER BY {positions}" if groups else ""
        sql = f"SELECT {', '.join([*groups, _TOTALS])} FROM requests WHERE {where}{grouping}"  # noqa: S608
        rows = await self._database.fetch(sql, *values)
        return [Totals(row[: len(groups)], *row[len(groups) :]) for row in rows]

    async def records(self, window: Window = Window()) -> AsyncIterator[tuple[int, RequestRecord]]:
        """Yields (row id, record) in the order of the ids, a page at a time: memory stays flat, nothing is locked."""
        where, values = _where(window)
        columns = ", ".join(["id", REQUESTS.column_names])
        after = len(values) + 1
        last = 0
        # By the last id, not by OFFSET: each page costs the same, and rows that are written meanwhile shift none.
        page = f"SELECT {columns} FROM requests WHERE {where} AND id > ${after} ORDER BY id LIMIT {_PAGE_ROWS}"  # noqa: S608
        while rows := await self._database.fetch(page, *values, last):
            for row in rows:
                yield row[0], record_of(row[1:])
            last = rows[-1][0]

    async def spend(self, window: Window = Window()) -> list[ProviderSpend]:
        """Returns what each provider's days cost, of the UTC days that the window touches."""
        first = 0 if window.since is None else math.floor(window.since / SECONDS_PER_DAY)
        last = _LAST_DAY if window.until is None else math.ceil(window.until / SECONDS_PER_DAY) - 1
        return await spend_by_day(self._database, first, last)

    async def prune(self, before: float) -> int:
        """Deletes the rows of requests that began before this time; returns how many. Each page is a transaction.

        The lives of workers that had stopped by then go with them.
        """
        oldest = f"SELECT id FROM requests WHERE started_at_us < $1 ORDER BY started_at_us LIMIT {_PAGE_ROWS}"  # noqa: S608
        deleted = 0
        while rows := await self._database.fetch(
            f"DELETE FROM requests WHERE id IN ({oldest}) RETURNING id",  # noqa: S608
            int(max(before, 0.0) * _US),  # no row is older than 1970, and the column holds 64 bits
        ):
            deleted += len(rows)
        await self._database.write(Statement(_PRUNE_LIVES, (int(max(before, 0.0) * _US),)))
        return deleted

    async def lost_writers(self) -> list[LostWriter]:
        """Returns the processes that ended without writing their last rows."""
        return await lost_writers(self._database)

    async def refusals(self) -> list[Refusal]:
        """Returns the processes of which the database refused rows."""
        return await refusals(self._database)


def _where(window: Window) -> tuple[str, tuple[Value, ...]]:
    bounds = [("started_at_us >=", window.since), ("started_at_us <", window.until)]
    given = [(text, round(value * _US)) for text, value in bounds if value is not None]
    clauses = [f"{text} ${number}" for number, (text, _) in enumerate(given, 1)]
    return " AND ".join(clauses) or "1 = 1", tuple(value for _, value in given)
