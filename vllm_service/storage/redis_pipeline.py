"""One connection to Redis that any number of commands share: each turn of the event loop sends what has come in one go.

Redis answers in the order of the commands, so a slow Redis delays commands and refuses none. Three faults differ. A
refusal is about one command. A full pipeline is about the command that finds it full. Redis is away only when it cannot
be reached, or when commands have waited for `silence_seconds` in which not one reply came, and a new connection finds
nothing either.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, ResponseError

from vllm_service.errors import StorageUnavailable
from vllm_service.storage.redis_errors import CONNECTION_ERRORS, ends_connection, is_silence, of_reply
from vllm_service.storage.redis_replies import RedisSilent


@dataclass(frozen=True, slots=True)
class PipelineBounds:
    """The times and bounds of one connection."""

    #: Commands that wait for a reply, or for the connection. One more is refused.
    commands: int = 10_000
    #: How long not one reply may come while commands wait, until the connection counts as lost; and for connecting.
    silence_seconds: float = 3.0
    #: Between two attempts to connect while Redis is away.
    rest_seconds: float = 0.5


@dataclass(slots=True)
class _Command:
    arguments: Sequence[Any]
    reply: asyncio.Future[Any]
    #: The text of a script that a server may lack.
    script: str | None


class Pipeline:
    """Sends commands, and matches replies. The connection is made at the first command, and again whenever it breaks.

    connect: makes a connection object of the driver, not yet connected.
    """

    def __init__(self, connect: Callable[[], AbstractConnection], bounds: PipelineBounds) -> None:
        self._connect = connect
        self._bounds = bounds
        self._unsent: deque[_Command] = deque()
        #: In the order in which replies come.
        self._sent: deque[_Command] = deque()
        #: Sent on a connection that broke: their end is unknown until a new one is made, or is not.
        self._cut: list[_Command] = []
        #: The digests of the scripts that were sent on this connection.
        self._known_scripts: set[str] = set()
        self._something_waits = asyncio.Event()
        #: When the last reply came, or the first command was sent of those that wait.
        self._heard_at = 0.0
        self._task: asyncio.Task[None] | None = None
        #: Why the connection before this one ended.
        self._cause: BaseException | None = None
        #: Why there is no connection; None while there is one, or the first is being made.
        self._away: BaseException | None = None

    @property
    def is_away(self) -> bool:
        """True while commands are refused without being sent: there is no connection, and the last attempt failed."""
        return self._away is not None

    @property
    def is_silent(self) -> bool:
        """True while Redis is away because nothing answers, and not because it refuses this process."""
        return self._away is not None and is_silence(self._away)

    @property
    def waiting(self) -> int:
        """The number of commands without a reply."""
        return len(self._unsent) + len(self._sent) + len(self._cut)

    def send(self, *arguments: Any, script: str | None = None) -> asyncio.Future[Any]:
        """Queues a command; returns its reply, to be awaited. script: of an EVALSHA, sent as EVAL where it is missing.

        Raises, here or at the await: RedisSilent where nothing answers; StorageUnavailable where Redis can do nothing
        now, with a cause if the command was sent and may have arrived; StorageRefused for a refusal of this command.
        """
        if self._away is not None:
            raise self._unavailable(None)
        if len(self._unsent) + len(self._sent) + len(self._cut) >= self._bounds.commands:
            raise StorageUnavailable(
                "Redis, which holds the limits, is slow, and too many requests wait for it already. Try again; if it "
                "lasts, check Redis's load and the network to it.",
                retry_after_seconds=1.0,
            )
        loop = asyncio.get_running_loop()
        command = _Command(arguments, loop.create_future(), script)
        self._unsent.append(command)
        self._something_waits.set()
        if self._task is None:
            self._task = loop.create_task(self._run(), name="connection to Redis")
        return command.reply

    async def close(self) -> None:
        """Ends the connection. Commands that still wait fail."""
        if self._task is not None:
            await _cancelled({self._task})
        self._away = ConnectionAbortedError("closed")
        self._fail([*self._cut, *self._sent, *self._unsent])

    async def _run(self) -> None:
        connection = self._connect()
        try:
            while True:
                try:
                    await connection.connect()  # type: ignore[no-untyped-call]
                except CONNECTION_ERRORS as error:
                    self._lost(error)
                    await asyncio.sleep(self._bounds.rest_seconds)
                    continue
                if _is_cancelled():
                    raise asyncio.CancelledError
                self._connected()
                broken = await self._use(connection)
                self._cut.extend(self._sent)
                self._sent.clear()
                self._cause = broken
                with contextlib.suppress(*CONNECTION_ERRORS):
                    await connection.disconnect(nowait=True)
        finally:
            with contextlib.suppress(*CONNECTION_ERRORS):
                await connection.disconnect(nowait=True)

    def _connected(self) -> None:
        """Fails the commands of the connection before: they may have arrived, and are not sent twice."""
        self._away = None
        self._known_scripts.clear()
        for command in self._cut:
            error = StorageUnavailable(
                "The connection to Redis, which holds the limits, broke while this request waited. Try again.",
                retry_after_seconds=1.0,
            )
            error.__cause__ = self._cause
            _fail(command, error)
        self._cut.clear()

    def _lost(self, error: BaseException) -> None:
        """Fails every command: there is no connection."""
        self._away = error
        self._fail(self._cut, cause=error)
        self._fail(self._unsent)

    def _fail(self, commands: list[_Command] | deque[_Command], cause: BaseException | None = None) -> None:
        for command in commands:
            _fail(command, self._unavailable(cause))
        commands.clear()

    def _unavailable(self, cause: BaseException | None) -> StorageUnavailable:
        words = f"is away ({type(self._away).__name__})"
        kind = RedisSilent if self.is_silent else StorageUnavailable
        error = kind(
            f"Redis, which holds the limits, {words}. Try again; if it lasts, check REDIS_URL and that Redis runs.",
            retry_after_seconds=1.0,
        )
        error.__cause__ = cause
        return error

    async def _use(self, connection: AbstractConnection) -> BaseException:
        """Sends and receives until the connection breaks or is silent; returns why it ended."""
        works = {asyncio.create_task(self._write(connection)), asyncio.create_task(self._read(connection))}
        try:
            while True:
                ended, _ = await asyncio.wait(
                    works, timeout=self._bounds.silence_seconds / 4, return_when="FIRST_COMPLETED"
                )
                for work in ended:
                    return work.exception() or ConnectionError("ended")
                if self._sent and asyncio.get_running_loop().time() - self._heard_at > self._bounds.silence_seconds:
                    return TimeoutError("no reply")
        finally:
            await _cancelled(works)

    async def _write(self, connection: AbstractConnection) -> None:
        while True:
            await self._something_waits.wait()
            self._something_waits.clear()
            if not self._sent:
                self._heard_at = asyncio.get_running_loop().time()
            packed: list[bytes] = []
            while self._unsent:
                command = self._unsent.popleft()
                packed.extend(connection.pack_command(*self._as_sent(command)))
                self._sent.append(command)
            if packed:
                await connection.send_packed_command(packed, check_health=False)

    def _as_sent(self, command: _Command) -> Sequence[Any]:
        """Returns the arguments; of a script that is new to the connection with its text. So none is overtaken."""
        if command.script is None or command.arguments[1] in self._known_scripts:
            return command.arguments
        self._known_scripts.add(command.arguments[1])
        return "EVAL", command.script, *command.arguments[2:]

    async def _read(self, connection: AbstractConnection) -> None:
        now = asyncio.get_running_loop().time
        while True:
            try:
                reply = await connection.read_response(timeout=math.inf, disconnect_on_error=False)
            except ResponseError as error:
                reply = error
            self._heard_at = now()
            command = self._sent.popleft()
            if isinstance(reply, NoScriptError) and command.script is not None:
                # The server was made to forget its scripts.
                self._known_scripts.discard(command.arguments[1])
                self._unsent.append(command)
                self._something_waits.set()
            elif isinstance(reply, ResponseError):
                _fail(command, of_reply(reply))
                if ends_connection(reply):
                    raise reply
            elif not command.reply.done():
                command.reply.set_result(reply)


def _fail(command: _Command, error: BaseException) -> None:
    if not command.reply.done():
        command.reply.set_exception(error)


def _is_cancelled() -> bool:
    """True if this task is being cancelled: redis-py (8.1) loses a cancellation that comes while it connects."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _cancelled(tasks: set[asyncio.Task[None]]) -> None:
    """Cancels the tasks and waits for their ends. asyncio.wait_for, within the driver, can lose a cancellation."""
    while pending := {task for task in tasks if not task.done()}:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=0.1)
