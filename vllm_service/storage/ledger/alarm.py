"""Counts the rows that the database refuses, logs them as errors, and shows them in /health.

A database that is away raises no alarm: rows wait for it, and are written when it is back.
"""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)


class LedgerAlarm:
    """Active while the database lacks a table or a column, and for good once rows were lost to a refusal."""

    def __init__(self) -> None:
        #: Rows that were lost, for any reason.
        self.dropped_rows = 0
        #: Of these, the rows that the database refused.
        self.refused_rows = 0
        self._lost_reason: str | None = None
        self._waiting_reason: str | None = None

    @property
    def reason(self) -> str | None:
        """Why the alarm is active; None where it is not."""
        return self._waiting_reason or self._lost_reason

    def schema_refused(self, reason: str, waiting_rows: int) -> None:
        """Notes that rows wait until an operator mends the schema. Logs only the first refusal in a row."""
        if self._waiting_reason is None:
            log.error("the database refuses the ledger's rows, and %d wait: %s", waiting_rows, reason)
        self._waiting_reason = reason

    def schema_accepted(self) -> None:
        """Ends the wait: the database has accepted rows again."""
        if self._waiting_reason is not None:
            log.warning("the database accepts the ledger's rows again")
        self._waiting_reason = None

    def refused(self, rows: int, reason: str) -> None:
        """Counts rows that are lost for good: neither waiting nor mending the schema helps."""
        self.refused_rows += rows
        self._lost_reason = reason
        self.dropped(rows, reason)

    def dropped(self, rows: int, reason: str) -> None:
        """Counts lost rows. Logs the first and every thousandth: a line for each would fill a disk that may be full."""
        before = self.dropped_rows
        self.dropped_rows += rows
        if rows and before // 1000 != (before + rows + 999) // 1000:
            log.error("the ledger dropped rows, %d since the start: %s", self.dropped_rows, reason)
