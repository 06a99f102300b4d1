"""Rows that the database refuses, as opposed to one that is away: counted, logged as errors, shown by /health."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)


class LedgerAlarm:
    """Rings while the database does not know a table or a column, and for good once rows were lost to a refusal.

    A database that is away is none of this: rows wait for it, and are written when it is back.
    """

    def __init__(self) -> None:
        #: Rows that were not kept at all, for whatever reason; of these, those that the database refused.
        self.dropped_rows = 0
        self.refused_rows = 0
        self._lost_because: str | None = None
        self._waits_because: str | None = None

    @property
    def reason(self) -> str | None:
        """Why it rings; None where it does not."""
        return self._waits_because or self._lost_because

    def schema_refused(self, reason: str, waiting_rows: int) -> None:
        """Rows wait until somebody mends the schema; logged at the first refusal of several in a row."""
        if self._waits_because is None:
            log.error("the database refuses the ledger's rows, and %d wait: %s", waiting_rows, reason)
        self._waits_because = reason

    def schema_taken(self) -> None:
        """The database has taken rows again."""
        if self._waits_because is not None:
            log.warning("the database takes the ledger's rows again")
        self._waits_because = None

    def refused(self, rows: int, reason: str) -> None:
        """These rows are lost: no waiting and no mending helps."""
        self.refused_rows += rows
        self._lost_because = reason
        self.dropped(rows, reason)

    def dropped(self, rows: int, reason: str) -> None:
        """Counted always; logged at the first row and every thousandth, or a full disk would fill with its own log."""
        before, self.dropped_rows = self.dropped_rows, self.dropped_rows + rows
        if rows and before // 1000 != (before + rows + 999) // 1000:
            log.error("the ledger dropped rows, %d since the start: %s", self.dropped_rows, reason)
