"""Parts of a long-running process: a listening socket, signal handlers, background work."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from vllm_service.errors import ServiceError
from vllm_service.logs import LogWriter, source_location

_log = logging.getLogger(__name__)


#: How often background work is cancelled at the end, and how long each time is waited for it.
CANCELLATIONS = 4
CANCELLATION_SECONDS = 1.0


@asynccontextmanager
async def background_work(*works: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Runs these while the body runs. A failure is logged and ends only the one that failed: requests need none."""
    tasks = [asyncio.create_task(_log_failure(work)) for work in works]
    try:
        yield
    finally:
        await _end(set(tasks))


async def _end(tasks: set[asyncio.Task[None]]) -> None:
    """Cancels the tasks, and leaves those behind that go on: a database that hangs may hold a cancelled call for ever.

    A driver may also lose a cancellation, so there are several.
    """
    for _ in range(CANCELLATIONS):
        for task in tasks:
            task.cancel()
        if tasks:
            _, tasks = await asyncio.wait(tasks, timeout=CANCELLATION_SECONDS)
    if tasks:
        _log.warning("%d of the background's tasks did not end in time, and are left behind", len(tasks))


async def _log_failure(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    try:
        await work()
    except Exception as error:
        _log.error("background work has failed and does not run again: %s", source_location(error))


def announce(listening: socket.socket) -> None:
    """Writes the base URL as the first line on stdout: from then on requests are answered, read or not."""
    host, port = listening.getsockname()[:2]
    stdout = LogWriter(sys.stdout.fileno())
    stdout.put(f"http://{f'[{host}]' if ':' in host else host}:{port}/v1\n".encode())
    stdout.flush()


def bound_socket(
    host: str, port: int, variable: str = "SERVICE_PORT", host_variable: str = "SERVICE_HOST"
) -> socket.socket:
    """Returns a listening socket. Raises ServiceError when the address cannot be bound.

    variable, host_variable: the settings of the port and of the host.
    """
    where = f"{host_variable}={host}, {variable}={port}"
    if not 0 <= port < 2**16:  # create_server would leave its socket open
        raise _cannot_listen(where, "there is no such port", f"Set {variable} to a number from 0 to 65535")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        remedy = f"Set {host_variable} to an address or a name of this machine"
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            remedy = f"Stop what listens there, or set {variable} to another port"
        raise _cannot_listen(where, error.strerror or str(error), remedy) from error
    listening.setblocking(False)
    return listening


def _cannot_listen(where: str, reason: str, remedy: str) -> ServiceError:
    return ServiceError(f"{where}: cannot listen there: {reason}. {remedy}.")


@contextmanager
def signal_handlers(handlers: dict[signal.Signals, Callable[[], None]]) -> Iterator[None]:
    """Calls these for their signals while the body runs."""
    loop = asyncio.get_running_loop()
    for number, handle in handlers.items():
        loop.add_signal_handler(number, handle)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)
