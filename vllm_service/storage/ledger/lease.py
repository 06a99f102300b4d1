"""A lease in the database, for work that one process does at a time; and the fence that keeps a late holder out.

No clocks are compared. The holder moves a counter with each renewal, and another process takes the lease over when it
has seen the counter stand still for `lease_seconds` by its own monotonic clock. The database is the one that the work
writes to: whoever has lost the lease finds its transactions refused as a whole, so no write is made by two.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from vllm_service.storage.sql.database import Database, RowsRefused, Statement

log = logging.getLogger(__name__)
#: As long as a writer of the ledger may be silent before it counts as killed.
LEASE_SECONDS = 30.0

_READ = "SELECT holder, term, beat FROM leases WHERE name = $1"
_FIRST = "INSERT INTO leases (name, holder, term, beat) VALUES ($1, $2, 1, 0) ON CONFLICT (name) DO NOTHING"
_RENEW = "UPDATE leases SET beat = beat + 1 WHERE name = $1 AND holder = $2 AND term = $3 RETURNING beat"
_TAKE = """UPDATE leases SET holder = $1, term = term + 1, beat = 0
    WHERE name = $2 AND term = $3 AND beat = $4 RETURNING term"""
_RELEASE = "UPDATE leases SET holder = '', beat = beat + 1 WHERE name = $1 AND holder = $2 AND term = $3"
# A NULL in a column that takes none: the database refuses the statement, and with it the transaction.
_FENCE = """UPDATE leases SET beat = CASE WHEN holder = $1 AND term = $2 THEN beat + 1 ELSE NULL END
    WHERE name = $3"""


class LeaseLost(RowsRefused):
    """Another process has taken the lease over; nothing of the transaction was written."""


class DatabaseLease:
    """One process's side of a lease. holder: this process's name, unlike any other's. clock: monotonic seconds."""

    def __init__(
        self,
        database: Database,
        name: str,
        holder: str,
        *,
        lease_seconds: float = LEASE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._name = name
        self._holder = holder
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._term: int | None = None
        #: The other holder's term and beat as last seen to change, and when.
        self._others: tuple[int, int] | None = None
        self._changed_at = 0.0

    @property
    def is_held(self) -> bool:
        """True while this process holds the lease, as far as it knows."""
        return self._term is not None

    async def held(self) -> bool:
        """Renews the lease, or takes it where it is free; returns whether this process holds it.

        Raises StorageUnavailable; who holds the lease is as before then.
        """
        if self._term is not None:
            if await self._database.fetch(_RENEW, self._name, self._holder, self._term):
                return True
            self.lost()
        found = await self._database.fetch(_READ, self._name)
        if not found:
            await self._database.write(Statement(_FIRST, (self._name, self._holder)))
            found = await self._database.fetch(_READ, self._name)
        holder, term, beat = found[0]
        if holder == self._holder:
            self._term = term
            return True
        if self._is_free(holder, term, beat):
            taken = await self._database.fetch(_TAKE, self._holder, self._name, term, beat)
            self._term = taken[0][0] if taken else None
        return self._term is not None

    async def write(self, *steps: Statement) -> None:
        """Executes the steps in one transaction, if this process still holds the lease.

        Raises LeaseLost, StorageUnavailable, and RowsRefused for the steps' own values.
        """
        if self._term is None:
            raise LeaseLost(f"this process does not hold the lease {self._name}.")
        fence = Statement(_FENCE, (self._holder, self._term, self._name))
        try:
            await self._database.write(fence, *steps)
        except RowsRefused:
            if await self._database.fetch(_RENEW, self._name, self._holder, self._term):
                raise
            self.lost()
            raise LeaseLost(f"another process has taken the lease {self._name}.") from None

    def lost(self) -> None:
        """Forgets the lease."""
        self._term = None
        self._others = None

    async def release(self) -> None:
        """Gives the lease back, so that another process takes it at once. Raises StorageUnavailable."""
        if self._term is not None:
            term, self._term = self._term, None
            await self._database.write(Statement(_RELEASE, (self._name, self._holder, term)))

    def _is_free(self, holder: str, term: int, beat: int) -> bool:
        if not holder:
            return True
        now = self._clock()
        if self._others != (term, beat):
            self._others = (term, beat)
            self._changed_at = now
        return now - self._changed_at >= self._lease_seconds
