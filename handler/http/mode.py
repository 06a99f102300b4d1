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
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext

import uvicorn

from handler.engine.protocol import Engine
from handler.http.app import HttpApp
from handler.http.readiness import Readiness, State
from handler.start.signals import stop_signals

logger = logging.getLogger(__name__)

EXIT_FAILURE = 1
# How long slow readers have to take the rest of their answers off the socket.
LINGER_SECONDS = 2


async def serve(
    engine: Engine,
    *,
    host: str,
    port: int,
    health_port: int,
    allowed_paths: Collection[str],
    max_body_bytes: int,
    drain_seconds: float,
    ping_path: str = "/ping",
    stall_seconds: float = 120.0,
    on_listening: Callable[[int, int], None] | None = None,
) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit code: 0 drained, 1 the engine failed.

    Listens before the engine starts, so that the platform sees it load. `on_listening` is given the two ports.
    """
    readiness = Readiness(engine)
    app = HttpApp(engine, readiness, allowed_paths=allowed_paths, max_body_bytes=max_body_bytes, ping_path=ping_path)
    health = HttpApp(engine, readiness, allowed_paths=(), max_body_bytes=0, ping_path=ping_path)
    with contextlib.ExitStack() as resources:
        try:
            ports = dict.fromkeys((port, health_port))  # one where they are the same
            listeners = [resources.enter_context(_listener(host, number)) for number in ports]
        except OSError as error:
            logger.error("cannot listen on %s", error)
            return EXIT_FAILURE
        stop = asyncio.Event()
        resources.enter_context(stop_signals(stop.set))
        try:
            async with _servers([app, health], listeners):
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


def _listener(host: str, port: int) -> socket.socket:
    """Returns a listening socket. Raises OSError that names address, reason and remedy."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "there is no such port"
        remedy = "Stop what listens there, or set PORT (PORT_HEALTH for the health check) to another port."
        raise OSError(f"{host}:{port}: {reason}. {remedy}") from error


class _Server(uvicorn.Server):
    """uvicorn without its own handling of signals."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()


@asynccontextmanager
async def _servers(apps: Sequence[HttpApp], listeners: Sequence[socket.socket]) -> AsyncIterator[None]:
    """Serves each app on its listener. At the end it closes idle connections and waits briefly for busy ones."""
    servers = [_Server(_config(app)) for app, _ in zip(apps, listeners, strict=False)]
    pairs = zip(servers, listeners, strict=True)
    tasks = [asyncio.create_task(server.serve(sockets=[listener])) for server, listener in pairs]
    try:
        yield
    finally:
        for server in servers:
            server.should_exit = True
        await asyncio.gather(*tasks)


def _config(app: HttpApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        ws="none",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=LINGER_SECONDS,
    )
