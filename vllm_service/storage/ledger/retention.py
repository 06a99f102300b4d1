"""Deletes what the ledger need not keep any longer, once an hour."""

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
    """Runs from when it is made until `close`."""

    def __init__(self, reader: LedgerReader, days: float, *, every_seconds: float = EVERY_SECONDS) -> None:
        self._reader = reader
        self._days = days
        self._every_seconds = every_seconds
        self._task = asyncio.create_task(self._run(), name="ledger retention")

    async def close(self) -> None:
        """Stops; what is half done goes on next time."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                deleted = await self._reader.prune(time.time() - self._days * SECONDS_PER_DAY)
                if deleted:
                    log.info("the ledger let go of %d rows older than %g days", deleted, self._days)
            except ServiceError as error:
                log.warning("the ledger's old rows stay for now: %s", error.message)
            await asyncio.sleep(self._every_seconds)
