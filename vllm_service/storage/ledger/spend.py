"""Reads what each UTC day has cost, by provider and part: rows, workers' seconds that are no request's, and bills."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable

from vllm_service.domain.bill import DAY_US
from vllm_service.domain.cost_basis import BOOKED, CostBasis
from vllm_service.domain.spend import ProviderSpend, RowSums, SpendLine, SpendPart
from vllm_service.domain.status import DaySpend, SpentState
from vllm_service.errors import ServiceError
from vllm_service.storage.ledger.billed_days import BilledDay, BilledDayStore
from vllm_service.storage.sql.database import Database

_log = logging.getLogger(__name__)
EVERY_SECONDS = 60.0

# Postgres sums BIGINT to NUMERIC, which would arrive as Decimal: hence the CAST. Rows without parts count apart.
_SUMS = ", ".join(
    f"CAST(COALESCE(SUM({term}), 0) AS BIGINT)"
    for term in (
        "cost_picousd",
        "execution_picousd",
        "cold_start_picousd",
        "idle_picousd",
        "CASE WHEN cost_picousd IS NULL THEN NULL ELSE baseline_picousd END",
        "CASE WHEN cost_picousd IS NULL OR baseline_picousd IS NULL THEN 0 ELSE 1 END",
        # As RequestRecord.is_unpriced.
        "CASE WHEN cost_picousd IS NULL AND (prompt_tokens IS NOT NULL OR outcome = 'completed') THEN 1 ELSE 0 END",
    )
)
_ROWS = f"""SELECT provider, started_at_us / {DAY_US}, cost_basis, {_SUMS} FROM requests
    WHERE started_at_us >= $1 AND started_at_us < $2 AND provider IS NOT NULL
    GROUP BY 1, 2, 3, CASE WHEN execution_picousd IS NULL THEN 0 ELSE 1 END ORDER BY 2, 1"""  # noqa: S608
_NOBODY = """SELECT provider, day, CAST(SUM(nobody_picousd) AS BIGINT) FROM booked_days
    WHERE day >= $1 AND day <= $2 GROUP BY provider, day"""


async def spend_by_day(database: Database, first_day: int, last_day: int) -> list[ProviderSpend]:
    """Returns each provider's days, both ends included, as days since 1970, in order. Raises StorageUnavailable."""
    lines: defaultdict[tuple[int, str], list[SpendLine]] = defaultdict(list)
    baselines: dict[tuple[int, str], int] = {}
    unpriced: defaultdict[tuple[int, str], int] = defaultdict(int)
    for provider, day, basis, *sums in await database.fetch(_ROWS, first_day * DAY_US, (last_day + 1) * DAY_US):
        key = day, provider
        *money, baseline, compared, unknown = sums
        lines[key] += RowSums(None if basis is None else CostBasis(basis), *money).lines()
        unpriced[key] += unknown
        if compared:
            baselines[key] = baselines.get(key, 0) + baseline
    billed = {(day.day, day.provider): day for day in await BilledDayStore(database).days(first_day, last_day)}
    for provider, day, nobody in await database.fetch(_NOBODY, first_day, last_day):
        bill = billed.get((day, provider))
        if bill is None or bill.applied_at_us is None:
            lines[day, provider].append(SpendLine(SpendPart.NO_REQUEST, BOOKED, nobody))
    for key, bill in billed.items():
        lines[key] += _billed_lines(bill)
    return [
        ProviderSpend(
            provider, day, _known(lines[day, provider]), baselines.get((day, provider)), unpriced[day, provider]
        )
        for day, provider in sorted(lines)
    ]


def _billed_lines(day: BilledDay) -> list[SpendLine]:
    """Returns the lines of a bill that are no request's. Those for workers' seconds are known once it was applied.

    What the bill's totals are more than its parts is unexplained too: all lines together are the bill.
    """
    beyond = day.beyond_parts_picousd
    amounts = {
        SpendPart.UNEXPLAINED: beyond,
        SpendPart.DISK: day.disk_picousd,
        SpendPart.FEE: day.fee_picousd,
        SpendPart.VOLUME: day.volume_picousd,
    }
    if day.applied_at_us is not None:
        unexplained = None if day.unexplained_picousd is None else day.unexplained_picousd + (beyond or 0)
        amounts |= {SpendPart.NO_REQUEST: day.nobody_picousd, SpendPart.UNEXPLAINED: unexplained}
    return [SpendLine(part, CostBasis.BILLED, amount) for part, amount in amounts.items() if amount is not None]


def _known(lines: list[SpendLine]) -> tuple[SpendLine, ...]:
    return tuple(line for line in lines if line.picousd)


class SpendWatch:
    """A task that reads today's and yesterday's spend once a minute, from when this is made until `close`."""

    def __init__(
        self, database: Database, *, every_seconds: float = EVERY_SECONDS, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._every_seconds = every_seconds
        self._clock = clock
        self._state = SpentState()
        self._task = asyncio.create_task(self._run(), name="spend of the day")

    def status(self) -> SpentState:
        """Returns what was read last; nothing before the first reading, and while the database is away."""
        return self._state

    async def close(self) -> None:
        """Stops the task."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                today = int(self._clock() * 1_000_000) // DAY_US
                days = await spend_by_day(self._database, today - 1, today)
                self._state = SpentState(
                    tuple(DaySpend("today" if day.day == today else "yesterday", day) for day in days)
                )
            except ServiceError as error:
                if self._state.days:
                    _log.warning("the spend of the day cannot be read now: %s", error.message)
                self._state = SpentState()
            await asyncio.sleep(self._every_seconds)
