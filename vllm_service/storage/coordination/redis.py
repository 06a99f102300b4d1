"""Implements coordination in Redis: the changes and probes of breakers, wake leases, worker targets.

A call on the way of a request has a short timeout: deciding alone is better than a wait. The others have time: a slow
Redis is still shared.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, replace
from typing import Any

from vllm_service.domain.breakers import BreakerChange, BreakerState, ProbeAnswer, ProbeClaim
from vllm_service.errors import ServiceError
from vllm_service.storage.coordination.memory import MemoryWakes
from vllm_service.storage.coordination.protocol import MOST_PROBES
from vllm_service.storage.redis_errors import CONNECTION_ERRORS
from vllm_service.storage.redis_link import RedisLink
from vllm_service.storage.redis_replies import reply_within

#: How long a call waits that no request waits for.
PATIENCE_SECONDS = 2.0
#: How long a request waits for the consent to a probe.
PROBE_SECONDS = 0.25
logger = logging.getLogger(__name__)


class RedisWakes:
    """Wake leases of all replicas with the same Redis and prefix.

    While Redis is away each replica goes by its own leases, so that an endpoint is woken once by each at most.
    """

    def __init__(
        self, link: RedisLink, *, prefix: str = "vllm_service", timeout_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._link = link
        self._prefix = prefix
        self._patience_seconds = timeout_seconds
        self._own = MemoryWakes()

    async def claim(self, endpoint: str, seconds: float) -> bool:
        """Implements protocol.Wakes."""
        try:
            milliseconds = max(1, round(seconds * 1000))
            claimed = await self._called("SET", self._key(endpoint), "1", "NX", "PX", milliseconds)
        except ServiceError as error:
            logger.warning(
                "Redis is away (%s): other replicas may wake endpoint %s too", type(error).__name__, endpoint
            )
            return await self._own.claim(endpoint, seconds)
        if claimed:
            # Kept here too, in case Redis goes away before the worker is there.
            await self._own.clear(endpoint)
            await self._own.claim(endpoint, seconds)
        return bool(claimed)

    async def shorten(self, endpoint: str, seconds: float) -> None:
        """Implements protocol.Wakes."""
        await self._own.shorten(endpoint, seconds)
        try:
            left_ms = await self._called("PTTL", self._key(endpoint))
            if left_ms > seconds * 1000:
                await self._called("PEXPIRE", self._key(endpoint), max(1, round(seconds * 1000)))
        except ServiceError:
            pass  # it expires by itself, only later

    async def clear(self, endpoint: str) -> None:
        """Implements protocol.Wakes."""
        await self._own.clear(endpoint)
        with contextlib.suppress(ServiceError):  # it expires by itself, only later
            await self._called("DEL", self._key(endpoint))

    async def _called(self, *arguments: str | int) -> Any:
        return await reply_within(self._link.call(*arguments), self._patience_seconds)

    def _key(self, endpoint: str) -> str:
        return f"{self._prefix}:wake:{endpoint}"


class RedisTargets:
    """Worker targets of all replicas with the same Redis and prefix; while Redis is away each has only its own."""

    def __init__(
        self, link: RedisLink, *, prefix: str = "vllm_service", timeout_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._script = link.script(__package__, "targets.lua")
        self._prefix = prefix
        self._patience_seconds = timeout_seconds
        self._is_away = False

    async def publish(self, endpoint: str, replica: str, workers: int, seconds: float) -> int:
        """Implements protocol.Targets."""
        highest = await self._exchange(endpoint, replica, workers, seconds)
        return workers if highest is None else max(workers, highest)

    async def withdraw(self, endpoint: str, replica: str) -> int | None:
        """Implements protocol.Targets."""
        highest = await self._exchange(endpoint, replica, -1, 0.0)
        return None if highest is None or highest < 0 else highest

    async def _exchange(self, endpoint: str, replica: str, workers: int, seconds: float) -> int | None:
        arguments: list[str | int] = [replica, workers, max(1, round(seconds * 1000))]
        try:
            reply = self._script([f"{self._prefix}:targets:{endpoint}"], arguments)
            highest = await reply_within(reply, self._patience_seconds)
        except ServiceError as error:
            if not self._is_away:  # logged once: the autoscaler calls this every second
                logger.warning("Redis is away (%s): this replica sets worker targets alone", type(error).__name__)
            self._is_away = True
            return None
        self._is_away = False
        return int(highest)


#: After so long without a message a ping is sent. Longer than the client's socket timeout: silence is no failure.
QUIET_SECONDS = 30.0
Apply = Callable[[BreakerChange], None]


class RedisBreakers:
    """The state of breakers, for all replicas with the same Redis and prefix.

    One hash holds the open breakers and their probes, by Redis's own clock. Each step is one script. A probe that takes
    longer than `timeout_seconds` is decided by this replica alone, which it logs once.
    """

    def __init__(
        self,
        link: RedisLink,
        *,
        prefix: str = "vllm_service",
        timeout_seconds: float = PROBE_SECONDS,
        reconnect_seconds: float = 1.0,
    ) -> None:
        self._client = link.client
        self._script = link.script(__package__, "breakers.lua")
        self._states = f"{prefix}:breakers"
        self._channel = f"{prefix}:breakers:changes"
        self._origin = uuid.uuid4().hex
        self._probe_patience_seconds = timeout_seconds
        self._reconnect_seconds = reconnect_seconds
        self._is_away = False

    async def publish(self, change: BreakerChange) -> None:
        """Implements protocol.BreakerStore. While Redis is away the change is lost."""
        message = json.dumps(asdict(change) | {"origin": self._origin})
        milliseconds = round(change.seconds * 1000)
        arguments = (self._channel, change.after.value, milliseconds, change.failures, change.successes, message)
        breaker = (change.provider, change.model, change.organisation)
        # A second try: the first may have met a connection that Redis had closed meanwhile.
        if await self._run_step("publish", *breaker, *arguments) is None:
            await self._run_step("publish", *breaker, *arguments)

    async def claim_probe(self, claim: ProbeClaim, seconds: float) -> ProbeAnswer:
        """Implements protocol.BreakerStore. While Redis is away every probe is granted."""
        breaker = (claim.provider, claim.model, claim.breaker_of)
        arguments = (claim.token, claim.sender, round(seconds * 1000), MOST_PROBES)
        answer = await self._run_step("claim", *breaker, *arguments, patience_seconds=self._probe_patience_seconds)
        if answer is None:
            return ProbeAnswer(granted=True)
        granted, wait_ms, successes = (int(part) for part in answer)
        return ProbeAnswer(bool(granted), wait_ms / 1000, successes)

    async def release_probe(self, claim: ProbeClaim) -> None:
        """Implements protocol.BreakerStore. While Redis is away the claim ends by expiring."""
        await self._run_step("release", claim.provider, claim.model, claim.breaker_of, claim.token, claim.sender)

    async def follow(self, apply: Apply) -> None:
        """Implements protocol.BreakerStore. Reconnects for as long as it takes, then applies what is open."""
        while True:
            try:
                async for change in self._changes():
                    apply(change)
            except (*CONNECTION_ERRORS, ServiceError) as error:
                self._note_away(error)
            if _is_cancelled():
                raise asyncio.CancelledError
            await asyncio.sleep(self._reconnect_seconds)

    async def _changes(self) -> AsyncIterator[BreakerChange]:
        """Yields what is open, then the changes of others. After a silence, a ping finds a dead connection."""
        async with self._client.pubsub() as subscription:
            await subscription.subscribe(self._channel)
            while not _is_cancelled():
                message = await subscription.get_message(timeout=QUIET_SECONDS)
                if message is None:
                    await subscription.ping()
                elif message["type"] == "subscribe":
                    # Read only now: a change between the reading and the subscription would be lost.
                    self._note_back()
                    for change in await self._open_now():
                        yield change
                elif message["type"] == "message" and (received := self._change_in(message["data"])):
                    yield received

    def _change_in(self, data: str | bytes) -> BreakerChange | None:
        """Returns the change; None for one of this replica itself, and for a message of another version's format."""
        try:
            document = json.loads(data)
            return None if document.pop("origin") == self._origin else _change(document)
        except (ValueError, TypeError, KeyError, AttributeError):
            return None

    async def _open_now(self) -> list[BreakerChange]:
        """Returns the open breakers as changes, for a replica that has just subscribed."""
        answer = await reply_within(self._script([self._states], ["open_now"]), PATIENCE_SECONDS)
        found: list[BreakerChange] = []
        for field, left_ms, failures in zip(answer[::3], answer[1::3], answer[2::3], strict=True):
            provider, model, *organisations = json.loads(field)
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
                    organisation=next(iter(organisations), None),
                )
            )
        return found

    async def _run_step(
        self,
        step: str,
        provider: str,
        model: str,
        organisation: str | None,
        *arguments: str | int,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> Any:
        """Returns the answer of a step of breakers.lua; None while Redis is away. organisation: None is everyone."""
        # JSON, because no separator is safe in names that operators choose.
        field = json.dumps([provider, model] if organisation is None else [provider, model, organisation])
        try:
            answer = await reply_within(self._script([self._states], [step, field, *arguments]), patience_seconds)
        except ServiceError as error:
            self._note_away(error)
            return None
        self._note_back()
        return answer

    def _note_away(self, error: BaseException) -> None:
        if not self._is_away:
            logger.warning("Redis is away (%s): circuit breakers are not shared between replicas", type(error).__name__)
        self._is_away = True

    def _note_back(self) -> None:
        if self._is_away:
            logger.info("Redis is back: circuit breakers are shared again")
        self._is_away = False


def _is_cancelled() -> bool:
    """True if this task is being cancelled: redis-py (8.1) loses a cancellation that comes while it connects."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _change(document: dict[str, Any]) -> BreakerChange:
    """Returns the change of a message. Raises for missing or unknown fields and states."""
    states = {name: BreakerState(document[name]) for name in ("before", "after")}
    return replace(BreakerChange(**(document | states)), from_elsewhere=True)
