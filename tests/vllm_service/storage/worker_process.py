"""A process of its own that uses storage as a gateway does, to be raced against others or killed.

    python -m tests.vllm_service.storage.worker_process race|hold|record DATABASE_URL REDIS_URL DATA_DIR COUNT

race: COUNT attempts, 16 at a time; prints how many were admitted. hold: reserves COUNT times, says so, and waits to be
killed. record: writes rows to the ledger until it is killed, and prints when it took each. "-" is no URL.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from vllm_service.domain.keys import ApiKey, OrganisationLimits, Tier
from vllm_service.domain.requests import Outcome, RequestRecord
from vllm_service.domain.usage import Usage
from vllm_service.errors import RateLimited
from vllm_service.storage.open import Storage, open_storage

LIMITS = OrganisationLimits(requests_per_day=300, tokens_per_day=10**9, tokens_per_month=10**9)
KEY = ApiKey("raced", "racers", Tier.ENTERPRISE, LIMITS)
MIDDAY = 4_102_444_800.0 + 43_200  # in 2100: the same day for every process, and later than any lease


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def race(storage: Storage, attempts: int) -> None:
    """A third of the requests come to nothing, and give back what they took: others get it."""
    numbers = iter(range(attempts))
    settled = 0

    async def caller() -> None:
        nonlocal settled
        for number in numbers:
            try:
                reservation = await storage.quotas.reserve(KEY, None, 100, 1000, MIDDAY)
            except RateLimited:
                continue
            await asyncio.sleep(0)
            if number % 3 == 0:
                await reservation.release()
            else:
                await reservation.settle(7, 11)
                settled += 1

    await asyncio.gather(*(caller() for _ in range(16)))
    say(str(settled))


async def hold(storage: Storage, count: int) -> None:
    for _ in range(count):
        await storage.quotas.reserve(KEY, None, 100, 1000, MIDDAY)
    say("held")
    await asyncio.Event().wait()


async def record(storage: Storage, count: int) -> None:
    for number in range(count):
        storage.ledger.record(
            RequestRecord(
                request_id=str(number), started_at=time.time(), key_id="k", organisation="acme",
                operation="chat.completions", model="m", outcome=Outcome.COMPLETED, status=200,
                usage=Usage(1, 1), cost_picousd=1,
            )
        )  # fmt: skip
        say(f"{number} {time.time()}")
        await asyncio.sleep(0.005)


async def main(what: str, database_url: str, redis_url: str, data_dir: str, count: str) -> None:
    urls = [None if url == "-" else url for url in (database_url, redis_url)]
    async with open_storage(urls[0], urls[1], Path(data_dir)) as storage:
        await {"race": race, "hold": hold, "record": record}[what](storage, int(count))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
