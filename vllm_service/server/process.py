"""What any long-running process of the service needs: a socket, signals, and work beside the requests."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from vllm_service.errors import ServiceError
from vllm_service.logs import source_location

_log = logging.getLogger(__name__)


@asynccontextmanager
async def beside(*works: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """They run while the body does. One that fails is logged: requests are served without it."""
    tasks = [asyncio.create_task(_told(work)) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _told(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    try:
        await work()
    except Exception as error:
        _log.error("what runs beside the requests has ended: %s", source_location(error))


def announce(listening: socket.socket) -> None:
    """The base URL, as the first line on stdout."""
    host, port = listening.getsockname()[:2]
    sys.stdout.write(f"http://{f'[{host}]' if ':' in host else host}:{port}/v1\n")
    sys.stdout.flush()


def bound(host: str, port: int) -> socket.socket:
    """Raises ServiceError when the address cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ServiceError(f"SERVICE_HOST={host}, SERVICE_PORT={port}: {error.strerror}.") from error
    listening.setblocking(False)
    return listening


@contextmanager
def signals(handlers: dict[signal.Signals, Callable[[], None]]) -> Iterator[None]:
    """These are called for these signals while the body runs."""
    loop = asyncio.get_running_loop()
    for number, handle in handlers.items():
        loop.add_signal_handler(number, handle)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)
