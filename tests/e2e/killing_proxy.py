"""A way to an emulated RunPod on which a process can be killed when a request was carried out, before its answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
from aiohttp import web


@dataclass
class KillingProxy:
    """Passes requests on, and kills `victim` at one of them."""

    target: str
    origin: str = ""
    #: At this request, from 0; None: at none.
    kill_at: int | None = None
    victim: asyncio.subprocess.Process | None = None
    #: Method and path of what came, since the last `reset`.
    came: list[str] = field(default_factory=list)

    def reset(self, kill_at: int | None) -> None:
        """Begins to count anew."""
        self.kill_at, self.victim = kill_at, None
        self.came.clear()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Passes one request on."""
        is_last = len(self.came) == self.kill_at
        self.came.append(f"{request.method} {request.path}")
        body = await request.read()
        headers = {"authorization": request.headers.get("authorization", ""), "content-type": "application/json"}
        async with httpx.AsyncClient(base_url=self.target, trust_env=False, timeout=60) as client:
            answer = await client.request(request.method, request.path_qs, headers=headers, content=body)
        if is_last:
            assert self.victim is not None
            self.victim.kill()
        kept = {name: answer.headers[name] for name in ("content-type",) if name in answer.headers}
        return web.Response(status=answer.status_code, body=answer.content, headers=kept)


@asynccontextmanager
async def killing_proxy(target: str) -> AsyncIterator[KillingProxy]:
    """Opens the way to an origin."""
    proxy = KillingProxy(target)
    app = web.Application(client_max_size=2**24)
    app.router.add_route("*", "/{path:.*}", proxy.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    proxy.origin = f"http://{host}:{port}"
    try:
        yield proxy
    finally:
        await runner.cleanup()
