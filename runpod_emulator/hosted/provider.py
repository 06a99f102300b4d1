"""One emulated provider: its routes, its key, its models, and the routes for its operator."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from functools import partial

from aiohttp import web

from runpod_emulator.errors import ApiError, ProviderError
from runpod_emulator.hosted.calls import OPERATIONS, Calls, apply_fault
from runpod_emulator.hosted.faults import HostedFaults, HostedInjector, InjectedFault
from runpod_emulator.hosted.meter import Meter
from runpod_emulator.hosted.reply import CREATED, Json
from runpod_emulator.hosted.settings import HostedModel, HostedSettings
from runpod_emulator.http import read_object

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class HostedProvider:
    """Serves `/hosted/NAME`: OpenAI's API under `/v1`, and `/bill`, `/stats` and `/faults` for the operator."""

    def __init__(self, settings: HostedSettings, clock: Callable[[], float]) -> None:
        self.settings = settings
        self.meter = Meter()
        self._clock = clock
        self._injector = HostedInjector(settings.faults, clock())
        self._calls = Calls(settings, self.meter, self._injector, clock)

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Adds everything under /hosted/NAME."""
        base = f"/hosted/{self.settings.name}"
        for operation in OPERATIONS:
            path = f"{base}/v1/{operation.replace('.', '/')}"
            router.add_post(path, self._counted(partial(self._calls.answer, operation)))
        router.add_get(base + "/v1/models", self._counted(self._list_models))
        router.add_get(base + "/v1/models/{model:.+}", self._counted(self._show_model))
        router.add_get(base + "/bill", self._show_bill)
        router.add_get(base + "/stats", self._show_stats)
        router.add_get(base + "/faults", self._show_faults)
        router.add_post(base + "/faults", self._set_faults)
        router.add_route("*", base + "/{path:.*}", self._counted(_unknown_url))

    def inject(self, faults: HostedFaults) -> None:
        """Replaces all faults."""
        self._injector.inject(faults, self._clock())

    def _counted(self, handler: Handler) -> Handler:
        """Returns the handler wrapped with the check of the key, errors in OpenAI's form, and counting."""

        async def answer(request: web.Request) -> web.StreamResponse:
            self.meter.request_started()
            try:
                self._require_key(request)
                return await handler(request)
            except ApiError as error:
                response = openai_error(error)
                self.meter.statuses[response.status] += 1
                self.meter.counts["bytes_out"] += response.content_length or 0
                return response
            finally:
                self.meter.request_ended()

        return answer

    async def _list_models(self, request: web.Request) -> web.StreamResponse:
        await self._fail_if_down(request)
        self.meter.statuses[200] += 1
        return web.json_response({"object": "list", "data": [_entry(self.settings, m) for m in self.settings.models]})

    async def _show_model(self, request: web.Request) -> web.StreamResponse:
        await self._fail_if_down(request)
        model = self._calls.model(request.match_info["model"])
        self.meter.statuses[200] += 1
        return web.json_response(_entry(self.settings, model))

    async def _fail_if_down(self, request: web.Request) -> None:
        """Applies an outage to a request for models. It gets no other fault: that would shift those of answers."""
        if self._injector.is_down(self._clock()):
            await apply_fault(request, InjectedFault("down", 0, self._injector.faults), self.meter)

    async def _show_bill(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"provider": self.settings.name} | self.meter.bill())

    async def _show_stats(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"provider": self.settings.name} | self.meter.stats())

    async def _show_faults(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self._injector.faults.to_json())

    async def _set_faults(self, request: web.Request) -> web.StreamResponse:
        try:
            self.inject(HostedFaults.parse(await read_object(request, self.settings.max_body_bytes)))
        except ApiError as error:
            return openai_error(error)
        return await self._show_faults(request)

    def _require_key(self, request: web.Request) -> None:
        key = self.settings.api_key
        given = request.headers.get("Authorization", "")
        if key is None or hmac.compare_digest(given.encode(), f"Bearer {key}".encode()):
            return
        self.meter.counts["unauthorized"] += 1
        raise ProviderError(401, "Incorrect API key provided.", "invalid_api_key")


def openai_error(error: ApiError) -> web.Response:
    """Returns `{"error": {"message", "type", "param", "code"}}`, OpenAI's form of an error."""
    known = error if isinstance(error, ProviderError) else ProviderError(error.status, str(error), error.code)
    document = {"message": str(known), "type": known.kind, "param": known.param, "code": known.openai_code}
    return web.json_response({"error": document}, status=known.status, headers=known.headers)


def _entry(settings: HostedSettings, model: HostedModel) -> Json:
    return {"id": model.id, "object": "model", "created": CREATED, "owned_by": settings.name}


async def _unknown_url(request: web.Request) -> web.StreamResponse:
    raise ProviderError(404, f"Unknown request URL: {request.method} {request.path}.", "unknown_url")
