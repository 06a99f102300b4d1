"""Deletes ledger rows that are older than the configured days, once an hour."""

from __future__ import annotations

import asyncio
import logging
import time

from vllm_service.domain.quotas import SECONDS_PER_DAY
from vllm_service.errors import ServiceError
from vllm_service.storage.ledger.reader import LedgerReader

log = logging.getLogger(__name__)
EVERY_SECONDS = 3600.0


class Retention:
    """A task that deletes old rows, from when this object is made until `close`."""

    def __init__(self, reader: LedgerReader, days: float, *, every_seconds: float = EVERY_SECONDS) -> None:
        self._reader = reader
        self._days = days
        self._every_seconds = every_seconds
        self._task = asyncio.create_task(self._run(), name="ledger retention")

    async def close(self) -> None:
        """Stops the task. Rows that it has not reached are deleted after the next start."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                deleted = await self._reader.prune(time.time() - self._days * SECONDS_PER_DAY)
                if deleted:
                    log.info("the ledger deleted %d rows older than %g days", deleted, self._days)
            except ServiceError as error:
                log.warning("the ledger's old rows could not be deleted, tried again in an hour: %s", error.message)
            await asyncio.sleep(self._every_seconds)
