"""The worker as a RunPod load-balancing endpoint: the engine's own API over HTTP, with no queue in between.

`GET /ping` answers 204 while the engine loads, 200 when it serves, 503 when it drains or has died. Every allowed path
goes to the engine as it is. SIGTERM or SIGINT lets running requests finish, then ends the process with exit code 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager

from handler.door.flags import Door, Tls
from handler.door.guard import App, behind_door, warn_of_an_open_door
from handler.door.listener import CannotListen, open_listener
from handler.door.server import Server, server
from handler.engine.protocol import Engine
from handler.http.app import PING_PATHS, HttpApp
from handler.http.readiness import Readiness, State
from handler.request_limits import DEFAULT, RequestLimits
from handler.start.failure import log_failed_start
from handler.start.signals import stop_signals

logger = logging.getLogger(__name__)

EXIT_FAILURE = 1
# How long slow readers have to take the rest of their answers off the socket.
LINGER_SECONDS = 2
OPEN = Door()


async def serve(
    engine: Engine,
    *,
    host: str,
    port: int,
    health_port: int,
    allowed_paths: Collection[str],
    max_body_bytes: int,
    limits: RequestLimits = DEFAULT,
    drain_seconds: float,
    door: Door = OPEN,
    ping_paths: Collection[str] = PING_PATHS,
    stall_seconds: float = 120.0,
    on_listening: Callable[[int, int], None] | None = None,
) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit code: 0 drained, 1 the engine failed.

    Listens before the engine starts, so that the platform sees it load. `on_listening` is given the two ports.
    """
    readiness = Readiness(engine)
    app = HttpApp(
        engine,
        readiness,
        allowed_paths=allowed_paths,
        max_body_bytes=max_body_bytes,
        limits=limits,
        ping_paths=ping_paths,
    )
    health = HttpApp(engine, readiness, allowed_paths=(), max_body_bytes=0, ping_paths=ping_paths)
    warn_of_an_open_door(door, host)
    servers = [_server(behind_door(app, door, ping_paths), door.tls), _server(health, Tls())]
    with contextlib.ExitStack() as resources:
        try:
            ports = dict.fromkeys((port, health_port), "PORT_HEALTH") | {port: "PORT"}  # one where they are the same
            listeners = [resources.enter_context(open_listener(host, *named)) for named in ports.items()]
        except CannotListen as error:
            log_failed_start(error)
            return EXIT_FAILURE
        stop = asyncio.Event()
        resources.enter_context(stop_signals(stop.set))
        try:
            async with _servers(servers, listeners):
                if on_listening:
                    on_listening(*(listeners[index].getsockname()[1] for index in (0, -1)))
                failed = await readiness.live_until(stop, stall_seconds)
                await _drain(app, readiness, 0 if failed else drain_seconds)
        finally:
            await engine.stop()
    return EXIT_FAILURE if failed else 0


async def _drain(app: HttpApp, readiness: Readiness, seconds: float) -> None:
    """Refuses new requests from here on. Running ones have `seconds` to finish, then they are aborted."""
    readiness.state = State.DRAINING
    if app.running:
        logger.info("draining: %d requests have %g s to finish", len(app.running), seconds)
        await asyncio.wait(app.running, timeout=seconds)
    for task in app.running:
        task.cancel()


@asynccontextmanager
async def _servers(servers: Sequence[Server], listeners: Sequence[socket.socket]) -> AsyncIterator[None]:
    """Serves on each listener. At the end it closes idle connections and waits briefly for busy ones."""
    pairs = zip(servers, listeners, strict=False)
    tasks = [asyncio.create_task(each.serve(sockets=[listener])) for each, listener in pairs]
    try:
        yield
    finally:
        for each in servers:
            each.end()
        await asyncio.gather(*tasks)


def _server(app: App, tls: Tls) -> Server:
    return server(
        app,
        tls,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=LINGER_SECONDS,
    )
