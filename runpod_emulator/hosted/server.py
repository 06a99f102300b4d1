"""Several hosted providers on one address, alone or beside an emulated RunPod."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from aiohttp import web

from runpod_emulator.errors import CannotListen, NotFound
from runpod_emulator.hosted.provider import HostedProvider, openai_error
from runpod_emulator.hosted.settings import HostedSettings

#: The time that open requests get when the server stops.
SHUTDOWN_SECONDS = 0.5


class HostedProviders:
    """Hosted providers, served inside `async with`, or by another server through add_routes.

    Raises ValueError for two providers with the same name.
    """

    def __init__(
        self,
        providers: Sequence[HostedSettings],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.providers = {settings.name: HostedProvider(settings, clock) for settings in providers}
        if len(self.providers) < len(providers):
            names = [settings.name for settings in providers]
            raise ValueError(f"hosted providers: two have the same name: {', '.join(names)}")
        #: `http://host:port` while it is served.
        self.origin = ""
        self._host = host
        self._port = port
        self._runner: web.AppRunner | None = None

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Adds `/hosted/NAME/...` of each provider."""
        for provider in self.providers.values():
            provider.add_routes(router)

    def base_url(self, name: str) -> str:
        """Returns the `base_url` of an OpenAI client. Raises KeyError for an unknown name."""
        return f"{self.origin}/hosted/{self.providers[name].settings.name}/v1"

    async def __aenter__(self) -> Self:
        """Starts to listen. Raises CannotListen."""
        app = web.Application(client_max_size=0)  # each provider has a limit of its own
        self.add_routes(app.router)
        app.router.add_route("*", "/{path:.*}", _no_such_provider)
        # With cancellation a handler ends when its client disconnects; aiohttp's default lets it run on.
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
        await self._runner.setup()
        try:
            # Load tests open a thousand connections at once; the default backlog of 128 would refuse some.
            await web.TCPSite(self._runner, self._host, self._port, backlog=1024).start()
        except (OSError, OverflowError) as error:
            await self._runner.cleanup()
            raise CannotListen(self._host, self._port, error) from error
        self.origin = f"http://{self._host}:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops the server; open requests get `SHUTDOWN_SECONDS`."""
        if self._runner is not None:
            await self._runner.cleanup()


async def _no_such_provider(request: web.Request) -> web.StreamResponse:
    return openai_error(NotFound(f"{request.method} {request.path}: no such provider"))
