"""What replicas agree on, in Redis: breakers' changes and probes, one wake at a time, one number of workers."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, replace
from importlib import resources
from typing import Any

import redis.asyncio as redis
from redis.exceptions import RedisError

from vllm_service.domain.breakers import BreakerChange, BreakerState, ProbeAnswer
from vllm_service.storage.coordination.memory import MemoryWakes

AWAY = (RedisError, OSError, TimeoutError)
logger = logging.getLogger(__name__)


class RedisWakes:
    """Of all replicas with the same Redis and prefix; while Redis is away each wakes for itself, once per lease."""

    def __init__(self, client: redis.Redis, *, prefix: str = "vllm_service", patience_seconds: float = 0.25) -> None:
        self._client = client
        self._prefix = prefix
        self._patience_seconds = patience_seconds
        self._own = MemoryWakes()

    async def claim(self, endpoint: str, seconds: float) -> bool:
        """See coordination.Wakes."""
        try:
            async with asyncio.timeout(self._patience_seconds):
                claimed = await self._client.set(self._key(endpoint), "1", nx=True, px=max(1, round(seconds * 1000)))
        except AWAY as error:
            logger.warning("Redis is away (%s): %s is woken by this replica alone", type(error).__name__, endpoint)
            return await self._own.claim(endpoint, seconds)
        if claimed:  # remembered, in case Redis goes away before the worker is there
            await self._own.clear(endpoint)
            await self._own.claim(endpoint, seconds)
        return bool(claimed)

    async def shorten(self, endpoint: str, seconds: float) -> None:
        """See coordination.Wakes."""
        await self._own.shorten(endpoint, seconds)
        try:
            async with asyncio.timeout(self._patience_seconds):
                left_ms = await self._client.pttl(self._key(endpoint))
                if left_ms > seconds * 1000:
                    await self._client.pexpire(self._key(endpoint), max(1, round(seconds * 1000)))
        except AWAY:
            pass  # it expires by itself, only later

    async def clear(self, endpoint: str) -> None:
        """See coordination.Wakes."""
        await self._own.clear(endpoint)
        try:
            async with asyncio.timeout(self._patience_seconds):
                await self._client.delete(self._key(endpoint))
        except AWAY:
            pass  # it expires by itself, only later

    def _key(self, endpoint: str) -> str:
        return f"{self._prefix}:wake:{endpoint}"


_log = logging.getLogger(__name__)


class RedisTargets:
    """Of all replicas with the same Redis and prefix; while Redis is away each has only its own word."""

    def __init__(self, client: redis.Redis, *, prefix: str = "vllm_service", patience_seconds: float = 0.25) -> None:
        script = resources.files(__package__).joinpath("targets.lua").read_text("utf-8")
        self._script = client.register_script(script)
        self._prefix = prefix
        self._patience_seconds = patience_seconds
        self._is_away = False

    async def publish(self, endpoint: str, replica: str, workers: int, seconds: float) -> int:
        """See coordination.Targets."""
        highest = await self._say(endpoint, replica, workers, seconds)
        return workers if highest is None else max(workers, highest)

    async def withdraw(self, endpoint: str, replica: str) -> int | None:
        """See coordination.Targets."""
        highest = await self._say(endpoint, replica, -1, 0.0)
        return None if highest is None or highest < 0 else highest

    async def _say(self, endpoint: str, replica: str, workers: int, seconds: float) -> int | None:
        arguments: list[str | int] = [replica, workers, max(1, round(seconds * 1000))]
        try:
            async with asyncio.timeout(self._patience_seconds):
                highest = await self._script(keys=[f"{self._prefix}:targets:{endpoint}"], args=arguments)
        except AWAY as error:
            if not self._is_away:  # it is asked once a second
                _log.warning("Redis is away (%s): this replica alone says how many workers", type(error).__name__)
            self._is_away = True
            return None
        self._is_away = False
        return int(highest)


# Longer than any socket time-out of the client's: silence is no failure.
QUIET_SECONDS = 30.0
Apply = Callable[[BreakerChange], None]


class RedisBreakers:
    """Of all replicas with the same Redis and prefix.

    One hash holds what is open and who probes, by Redis's own clock; each step is one script. An answer that takes
    longer than `patience_seconds` counts as Redis being away: then each replica decides for itself, and says so once.
    """

    def __init__(
        self,
        client: redis.Redis,
        *,
        prefix: str = "vllm_service",
        patience_seconds: float = 0.25,
        reconnect_seconds: float = 1.0,
    ) -> None:
        self._client = client
        self._script = client.register_script(resources.files(__package__).joinpath("breakers.lua").read_text("utf-8"))
        self._states = f"{prefix}:breakers"
        self._channel = f"{prefix}:breakers:changes"
        self._origin = uuid.uuid4().hex
        self._patience_seconds = patience_seconds
        self._reconnect_seconds = reconnect_seconds
        self._is_away = False

    async def publish(self, change: BreakerChange, token: str) -> None:
        """Lost when Redis is away: the others then find out for themselves."""
        message = json.dumps(asdict(change) | {"origin": self._origin})
        milliseconds = round(change.seconds * 1000)
        arguments = (self._channel, change.after.value, milliseconds, change.failures, change.successes, message)
        place = _place(change.provider, change.model)
        # Once more when it failed: the first may have found a connection that Redis had left behind.
        if await self._ask("publish", place, token, *arguments) is None:
            await self._ask("publish", place, token, *arguments)

    async def claim_probe(self, provider: str, model: str, token: str, seconds: float) -> ProbeAnswer:
        """Granted when Redis is away."""
        answer = await self._ask("claim", _place(provider, model), token, round(seconds * 1000))
        if answer is None:
            return ProbeAnswer(granted=True)
        granted, wait_ms, successes = (int(part) for part in answer)
        return ProbeAnswer(bool(granted), wait_ms / 1000, successes)

    async def release_probe(self, provider: str, model: str, token: str) -> None:
        """If Redis is away, the claim expires."""
        await self._ask("release", _place(provider, model), token)

    async def follow(self, apply: Apply) -> None:
        """Connects again for as long as it takes; whoever comes back hears first what is open by then."""
        while True:
            try:
                async for change in self._changes():
                    apply(change)
            except AWAY as error:
                self._note_away(error)
            if _is_cancelled():
                raise asyncio.CancelledError
            await asyncio.sleep(self._reconnect_seconds)

    async def _changes(self) -> AsyncIterator[BreakerChange]:
        """What is open when it has subscribed, then what others tell. A silent connection is asked whether it lives."""
        async with self._client.pubsub() as subscription:
            await subscription.subscribe(self._channel)
            while not _is_cancelled():
                message = await subscription.get_message(timeout=QUIET_SECONDS)
                if message is None:
                    await subscription.ping()
                elif message["type"] == "subscribe":
                    self._note_back()
                    for change in await self._open_now():
                        yield change
                elif message["type"] == "message" and (heard := self._heard(message["data"])):
                    yield heard

    def _heard(self, data: str | bytes) -> BreakerChange | None:
        """None for its own words, and for those of a version that it does not understand."""
        try:
            document = json.loads(data)
            return None if document.pop("origin") == self._origin else _change(document)
        except (ValueError, TypeError, KeyError, AttributeError):
            return None

    async def _open_now(self) -> list[BreakerChange]:
        """As a replica that starts should know it."""
        answer = await self._script(keys=[self._states], args=["open_now"])
        found: list[BreakerChange] = []
        for place, left_ms, failures in zip(answer[::3], answer[1::3], answer[2::3], strict=True):
            provider, model = json.loads(place)
            found.append(
                BreakerChange(
                    provider,
                    model,
                    BreakerState.CLOSED,
                    BreakerState.OPEN,
                    "another replica found it failing",
                    int(left_ms) / 1000,
                    int(failures),
                    from_elsewhere=True,
                )
            )
        return found

    async def _ask(self, step: str, *arguments: str | int) -> Any:
        """The answer of a step of breakers.lua; None when Redis is away."""
        try:
            async with asyncio.timeout(self._patience_seconds):
                answer = await self._script(keys=[self._states], args=[step, *arguments])
        except AWAY as error:
            self._note_away(error)
            return None
        if _is_cancelled():
            raise asyncio.CancelledError
        self._note_back()
        return answer

    def _note_away(self, error: BaseException) -> None:
        if not self._is_away:
            logger.warning("Redis is away (%s): circuit breakers are this replica's own for now", type(error).__name__)
        self._is_away = True

    def _note_back(self) -> None:
        if self._is_away:
            logger.info("Redis is back: circuit breakers are shared again")
        self._is_away = False


def _is_cancelled() -> bool:
    """Asked for, because redis-py (8.1) loses a cancellation that comes while it connects."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _place(provider: str, model: str) -> str:
    return json.dumps([provider, model])


def _change(document: dict[str, Any]) -> BreakerChange:
    states = {name: BreakerState(document[name]) for name in ("before", "after")}
    return replace(BreakerChange(**(document | states)), from_elsewhere=True)
