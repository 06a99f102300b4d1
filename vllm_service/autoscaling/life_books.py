"""Books the lives of workers to the ledger's rows, slice by slice, as their moments become final.

Each slice is one transaction: the parts of the rows, the sums of the day, and until when the life is booked. It is made
only by the holder of the lease, and only if the life was booked until where the slice begins. So booking again, after a
crash or by another replica, adds nothing twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from vllm_service.accounting.inferred_lives import inferred_lives
from vllm_service.accounting.life_slices import BookedSlice, next_slice
from vllm_service.domain.worker_lives import LedgerRow, WorkerLife
from vllm_service.storage.ledger.lease import DatabaseLease
from vllm_service.storage.ledger.lives import (
    LONGEST_REQUEST_US,
    BookedDay,
    LifeStore,
    add,
    add_to_day,
    move,
    put,
    settle_rows,
    settle_unpriced,
)

#: The most rows of one slice, and so of one transaction.
MOST_ROWS = 2000
#: The most slices of one round; the others come with the next ones.
MOST_SLICES = 500
#: A slice with fewer rows is booked between two turns of the event loop; one with more on a thread.
_FEW_ROWS = 100


@dataclass(frozen=True, slots=True)
class OwnEndpoint:
    """A configured endpoint that is paid by the second."""

    provider: str
    endpoint_id: str
    idle_timeout_us: int
    #: Where a worker's GPU type is not known; None: no price is known, and nothing is booked.
    picousd_per_microsecond: int | None
    #: When it was last seen, after which a worker may have been there that is not known yet; None: it cannot be seen.
    seen_until_us: int | None = None

    def final_us(self, final_us: int) -> int:
        """Returns until when both its requests and its workers are known; final_us: its requests."""
        return final_us if self.seen_until_us is None else min(final_us, self.seen_until_us)


class LifeBooks:
    """Books for all endpoints. Its methods raise LeaseLost and StorageUnavailable; what was booked before stays so."""

    def __init__(self, store: LifeStore, lease: DatabaseLease, *, most_rows: int = MOST_ROWS) -> None:
        self._store = store
        self._lease = lease
        self._most_rows = most_rows

    async def book(self, endpoints: Mapping[str, OwnEndpoint], final_us: int) -> list[WorkerLife]:
        """Books what is final, and returns the lives of which something was booked, as they are now.

        endpoints: by provider. final_us: every request that began before it has ended, and its row is in the ledger.
        """
        lives: dict[str, list[WorkerLife]] = {name: [] for name in endpoints}
        for life in await self._store.unsettled():
            lives.setdefault(life.provider, []).append(life)
        changed: list[WorkerLife] = []
        for provider, of_provider in lives.items():
            endpoint = endpoints.get(provider)
            price = None if endpoint is None else endpoint.picousd_per_microsecond
            known = [_priced(life, price) for life in of_provider]
            if any(life.picousd_per_microsecond is None for life in known) or (endpoint is not None and price is None):
                # Rows whose worker has no price keep what they were expected to cost.
                await self._give_up(known, final_us)
                continue
            open_until = final = final_us if endpoint is None else endpoint.final_us(final_us)
            for life in known:
                booked = await self._book_life(life, final)
                if booked is not life:
                    changed.append(booked)
                if not booked.is_settled:
                    open_until = min(open_until, booked.booked_until_us)
            await self._settle_rows(provider, endpoint, open_until)
        return changed

    async def _give_up(self, lives: Sequence[WorkerLife], final_us: int) -> None:
        """Ends the lives that stopped a day ago and have had no price since, or their number would grow for ever."""
        oldest_us = final_us - LONGEST_REQUEST_US
        old = [life for life in lives if life.stopped_at_us is not None and life.stopped_at_us < oldest_us]
        if old:
            await self._lease.write(*map(settle_unpriced, old[:MOST_SLICES]))

    async def _book_life(self, life: WorkerLife, final_us: int) -> WorkerLife:
        for _ in range(MOST_SLICES):
            rows, known_us = await self._rows(life.provider, life.booked_until_us, final_us)
            found = await _sliced(life, rows, known_us)
            if found is None:
                return life
            parts = add(found.parts, found.day)
            await self._lease.write(move(found.life, found.begin_us), *parts, add_to_day(_day_of(found)))
            life = found.life
            if life.is_settled:
                return life
        return life

    async def _rows(self, provider: str, since_us: int, final_us: int) -> tuple[list[LedgerRow], int]:
        """Returns the rows that had not ended at since_us, and until when all of them are known."""
        limit = self._most_rows
        while True:
            rows = await self._store.pending_rows(provider, since_us, final_us, limit)
            known_us = rows[-1].started_us if len(rows) == limit else final_us
            # So many that run at once have to be read together, or no slice would ever end.
            if known_us > since_us or len(rows) < limit:
                return rows, known_us
            limit *= 2

    async def _settle_rows(self, provider: str, endpoint: OwnEndpoint | None, until_us: int) -> None:
        """Makes booked rows of those that have ended before all lives are booked until then.

        An answer without a worker implies one that was not seen: it is noted, and its rows wait for it.
        """
        rows = await self._store.ended_rows(provider, until_us, self._most_rows)
        if not rows:
            return
        if endpoint is not None:
            first, last = min(row.started_us for row in rows), max(row.ended_us for row in rows)
            unseen = inferred_lives(
                rows,
                await self._store.overlapping(provider, first, last + 1),
                provider=provider,
                endpoint_id=endpoint.endpoint_id,
                idle_timeout_us=endpoint.idle_timeout_us,
                picousd_per_microsecond=endpoint.picousd_per_microsecond,
            )
            if unseen:
                await self._lease.write(*map(put, unseen))
                return
        await self._lease.write(*settle_rows([row.row_id for row in rows]))


async def _sliced(life: WorkerLife, rows: Sequence[LedgerRow], known_us: int) -> BookedSlice | None:
    if len(rows) <= _FEW_ROWS:
        return next_slice(life, rows, known_us)
    return await asyncio.to_thread(next_slice, life, rows, known_us)


def _priced(life: WorkerLife, price: int | None) -> WorkerLife:
    return life if life.picousd_per_microsecond is not None else replace(life, picousd_per_microsecond=price)


def _day_of(found: BookedSlice) -> BookedDay:
    parts = found.parts.values()
    return BookedDay(
        found.life.provider,
        found.life.endpoint_id,
        found.day,
        found.length_us,
        sum(part.execution_picousd for part in parts),
        sum(part.cold_start_picousd for part in parts),
        sum(part.idle_picousd for part in parts),
        found.earlier_picousd,
        found.nobody_picousd,
    )
