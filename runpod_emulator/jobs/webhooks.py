"""Webhooks: the results of jobs, posted to the URLs that their clients gave."""

from __future__ import annotations

import asyncio
import logging

import aiohttp

from runpod_emulator.jobs.job import Job, Json
from runpod_emulator.jobs.store import Clock

logger = logging.getLogger(__name__)

ATTEMPTS = 3
PAUSE_SECONDS = 1
TIMEOUT_SECONDS = 10


class Webhooks:
    """Runs one task per finished job that has a webhook. Each post is tried three times."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()

    def post(self, job: Job) -> None:
        """Starts to post the job's result; does nothing for a job without a webhook."""
        if job.webhook:
            task = asyncio.create_task(_post(job.webhook, job.for_client(self._clock())))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Cancels the posts that are not finished."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _post(url: str, document: Json) -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(TIMEOUT_SECONDS)) as session:
        for attempt in range(ATTEMPTS):
            try:
                async with session.post(url, json=document) as response:
                    response.raise_for_status()
                    return
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                logger.warning("webhook of job %s, attempt %d: %s", document["id"], attempt + 1, error)
                await asyncio.sleep(PAUSE_SECONDS)
