"""Makes mixed traffic at two gateways, and compares what callers, windows, quotas and ledger have of it.

python -m tests.e2e.books_of_two_gateways 10000
"""

from __future__ import annotations

import asyncio
import csv
import io
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.gateway import command, configure, gateway, variables_of
from tests.e2e.mixed_traffic import Callers, MixedProvider
from tests.servers import PostgresServer, RedisServer
from tests.vllm_service.storage.use import in_redis
from vllm_service.domain.money import picousd
from vllm_service.domain.quotas import KEY_WINDOW
from vllm_service.storage.redis_link import RedisLink
from vllm_service.testing import ScriptedProvider

#: By organisation: its tier, and what it may use.
LIMITS: dict[str, tuple[str, dict[str, int | str]]] = {
    "unlimited": ("enterprise", {}),
    "by-minute": ("development", {}),
    "by-requests": ("enterprise", {"requests-per-day": 150}),
    "by-tokens": ("enterprise", {"tokens-per-day": 3_000}),
    "by-dollars": ("enterprise", {"usd-per-month": "0.0005"}),
}
PER_MINUTE = 100
Row = dict[str, str]
#: Requests, tokens and pico-dollars.
Use = tuple[int, int, int]


@dataclass(frozen=True)
class Books:
    """What is left of a run."""

    callers: Callers
    rows: list[Row]
    #: Of the month, by organisation.
    used: dict[str, Use]
    open_leases: int
    #: The requests that each key's window in Redis holds, and when the run began and ended.
    windows: dict[str, int]
    seconds: float


async def traffic(count: int, directory: Path, redis_server: RedisServer, database_url: str) -> Books:
    """Makes so many requests at two gateways, and returns what is left when both have stopped."""
    dice = random.Random(15)
    async with AsyncExitStack() as stack:
        providers = [await stack.enter_async_context(ScriptedProvider(MixedProvider(dice))) for _ in "ab"]
        variables = _configured(directory, [provider.url for provider in providers], redis_server.url, database_url)
        keys = {name: await _key(name, directory, variables) for name in LIMITS}
        gateways = [await stack.enter_async_context(gateway(directory, **variables)) for _ in "ab"]
        callers = Callers([one.url for one in gateways], keys, dice)
        began = time.monotonic()
        await callers.make(count)
        seconds = time.monotonic() - began
        for one in gateways:  # everything is settled and written then
            await one.stop()
    text = await command("ledger", "export", **variables_of(directory, **variables))
    rows = list(csv.DictReader(io.StringIO(text)))
    used, open_leases, windows = await _kept(redis_server.url, keys)
    return Books(callers, rows, used, open_leases, windows, seconds)


def _configured(directory: Path, urls: list[str], redis_url: str, database_url: str) -> dict[str, str]:
    price = {"input": 0.15, "output": 0.6, "as_of": "2026-11-21"}
    options = {"prices": {"m": price}, "first_byte_timeout_seconds": 0.5, "idle_timeout_seconds": 0.5}
    providers = {f"provider-{number}": {"base_url": url, **options} for number, url in enumerate(urls)}
    offers = [{"provider": name, "model": "m"} for name in providers]
    configure(directory, providers, {"m": {"offers": offers, "context_length": 4096}})
    return {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "REQUIRE_KEYS": "true",
        "REQUESTS_PER_SECOND_PER_IP": "100000",
        "MAX_CONNECTIONS_PER_ADDRESS": "1000",
        "HEDGE": "true",
        "HEDGE_DELAY_SECONDS": "0.06",
        "HEDGE_PERCENT": "100",
    }


async def _key(organisation: str, directory: Path, variables: dict[str, str]) -> str:
    tier, limits = LIMITS[organisation]
    told = variables_of(directory, **variables)
    secret = await command("keys", "create", organisation, "--tier", tier, **told)
    if limits:
        given = [text for name, limit in limits.items() for text in (f"--{name}", str(limit))]
        await command("keys", "limits", organisation, *given, **told)
    return secret


async def _kept(redis_url: str, keys: dict[str, str]) -> tuple[dict[str, Use], int, dict[str, int]]:
    link = RedisLink(redis_url)
    now = time.time()
    used = {name: (await in_redis(link, name, now, None))[1] for name in keys}
    leases = [await link.client.zcard(f"vllm-service:org:{name}:leases") for name in keys]
    windows = {}
    for name, secret in keys.items():
        counts = await link.client.hgetall(f"vllm-service:key:{secret.split('_')[1]}")
        windows[name] = sum(int(value) for value in counts.values())
    await link.close()
    return used, sum(leases), windows


def booked_by(rows: list[Row], organisation: str) -> tuple[int, int]:
    """Returns tokens and pico-dollars of an organisation in the ledger."""
    own = [row for row in rows if row["organisation"] == organisation]
    tokens = sum(int(row["prompt_tokens"] or 0) + int(row["completion_tokens"] or 0) for row in own)
    return tokens, sum(int(row["cost_picousd"] or 0) for row in own)


def checked(books: Books) -> None:
    """Asserts that everything agrees, and that every limit has held."""
    _kinds_are_there(books.rows)
    assert books.open_leases == 0
    by_id = {row["request_id"]: row for row in books.rows}
    for request_id, organisation in books.callers.completed.items():
        row = by_id[request_id]
        assert (row["organisation"], row["status"], row["outcome"]) == (organisation, "200", "completed")
    _books_agree(books)
    _limits_have_held(books)


def _books_agree(books: Books) -> None:
    for organisation in LIMITS:
        requests, tokens, spent = books.used[organisation]
        assert (tokens, spent) == booked_by(books.rows, organisation), organisation
        own = [row for row in books.rows if row["organisation"] == organisation and "/" not in row["request_id"]]
        # What ended without tokens while its provider was being connected to is the one case that rows leave open.
        sent = [row for row in own if row["attempts"] != "0"]
        undecided = [row for row in sent if row["status"] in ("499", "503", "504") and not row["prompt_tokens"]]
        assert len(sent) - len(undecided) <= requests <= len(sent), (organisation, len(sent), len(undecided), requests)
        if books.seconds < KEY_WINDOW.buckets:
            limited = [row for row in own if row["outcome"] == "rejected" and row["status"] == "429"]
            # A caller who left while Redis was being asked: whether there was room, the row does not have.
            left = [row for row in own if (row["outcome"], row["attempts"]) == ("cancelled", "0")]
            made = len(own) - len(limited)
            assert made - len(left) <= books.windows[organisation] <= made


def _kinds_are_there(rows: list[Row]) -> None:
    outcomes = {row["outcome"] for row in rows}
    kinds = Counter(row["request_id"].rpartition("/")[2] for row in rows if "/" in row["request_id"])
    assert outcomes == {"completed", "cancelled", "failed", "rejected"}
    assert {row["status"] for row in rows} >= {"200", "400", "429", "499", "502", "504"}
    assert min(kinds["cut"], kinds["hedge"]) > 0


def _limits_have_held(books: Books) -> None:
    used = books.used
    assert used["by-requests"][0] <= 150
    assert used["by-tokens"][1] <= 3_000
    assert used["by-dollars"][2] <= picousd("0.0005")
    limited = {row["organisation"] for row in books.rows if (row["status"], row["outcome"]) == ("429", "rejected")}
    assert limited >= {"by-minute", "by-tokens", "by-requests"}
    assert "unlimited" not in limited
    # The arrival is noted a moment before the window's clock is read.
    arrivals = sorted(
        row["started_at"]
        for row in books.rows
        if row["organisation"] == "by-minute" and row["outcome"] != "rejected" and "/" not in row["request_id"]
    )
    assert len(arrivals) <= PER_MINUTE * (1 + books.seconds // 59)


async def _run(count: int) -> None:
    redis_server = RedisServer()
    redis_server.start()
    with tempfile.TemporaryDirectory() as directory:
        postgres = PostgresServer(Path(directory))
        try:
            books = await traffic(count, Path(directory) / "gateways", redis_server, await postgres.emptied())
            rows = Counter(row["outcome"] for row in books.rows)
            sys.stdout.write(f"{count} requests in {books.seconds:.0f} s\n{dict(rows)}\n{books.used}\n")
            sys.stdout.write(f"{dict(sorted(books.callers.statuses.items()))}\n")
            checked(books)
            sys.stdout.write("windows, quotas, ledger and callers agree\n")
        finally:
            postgres.stop()
            redis_server.stop()


if __name__ == "__main__":
    asyncio.run(_run(int(sys.argv[1])))
