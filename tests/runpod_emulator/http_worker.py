"""A worker of a load-balancing endpoint: an HTTP server whose paths do what tests ask of it.

FIRST_STATUS is what its health check answers until /become?status=N changes it.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from aiohttp import web

WORKER_ID = os.environ.get("RUNPOD_POD_ID", "")


class Worker:
    """What it does, and what has happened to it."""

    def __init__(self) -> None:
        self.status = int(os.environ.get("FIRST_STATUS", "200"))
        self.goes_on = asyncio.Event()
        self.left = 0

    async def ping(self, _: web.Request) -> web.Response:
        return web.Response(status=self.status)

    async def become(self, request: web.Request) -> web.Response:
        self.status = int(request.query["status"])
        return web.Response()

    async def echo(self, request: web.Request) -> web.Response:
        """What has come, so that a test can compare it with what was sent."""
        document = {
            "worker": WORKER_ID,
            "method": request.method,
            "path": request.raw_path,
            "headers": {name.lower(): value for name, value in request.headers.items()},
            "bytes": len(await request.read()),
            "queue": os.environ.get("RUNPOD_WEBHOOK_GET_JOB"),
        }
        return web.json_response(document, headers={"X-Own": "1", "Connection": "X-Hop", "X-Hop": "1"})

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """One event at once, and the second after /go."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            await response.write(b"data: 1\n\n")
            await self.goes_on.wait()
            await response.write(b"data: 2\n\n")
        except asyncio.CancelledError:
            self.left += 1
            raise
        return response

    async def wait(self, _: web.Request) -> web.Response:
        """Answers after /go."""
        await self.goes_on.wait()
        return web.Response(text="waited")

    async def go(self, _: web.Request) -> web.Response:
        self.goes_on.set()
        return web.json_response({"left": self.left})

    async def seen(self, _: web.Request) -> web.Response:
        return web.json_response({"left": self.left})

    async def big(self, request: web.Request) -> web.StreamResponse:
        """So many bytes; with `chunked` their number is not said before."""
        size = int(request.query["bytes"])
        if "chunked" not in request.query:
            return web.Response(body=b"x" * size)
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(size // 1000):
            await response.write(b"x" * 1000)
        return response

    async def die(self, request: web.Request) -> web.StreamResponse:
        if "late" in request.query:
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"begun")
            await asyncio.sleep(0.1)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def app() -> web.Application:
    worker = Worker()
    app = web.Application(client_max_size=0)
    for name in ("ping", "become", "echo", "stream", "wait", "go", "seen", "big", "die"):
        app.router.add_route("*", f"/{name}", getattr(worker, name))
    app.router.add_route("*", "/health", worker.ping)
    app.router.add_get("/v1/models", worker.echo)
    app.router.add_route("*", "/echo/{path:.*}", worker.echo)
    return app


async def main() -> None:
    runner = web.AppRunner(app(), handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    for port in dict.fromkeys((os.environ["PORT"], os.environ["PORT_HEALTH"])):
        await web.TCPSite(runner, "127.0.0.1", int(port)).start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await runner.cleanup()


if __name__ == "__main__":
    assert Path(__file__).name == "http_worker.py"
    asyncio.run(main())
