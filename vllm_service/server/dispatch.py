"""The whole service as one handler of requests: the hot path in front, the FastAPI application for everything else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

from vllm_service.api.dependencies import Dependencies
from vllm_service.errors import MethodNotAllowed
from vllm_service.gateway.gateway import Gateway
from vllm_service.gateway.operations import BY_PATH
from vllm_service.http.asgi import Application, serve_asgi
from vllm_service.http.error_answers import error_body, error_headers
from vllm_service.http.messages import Request, ResponseWriter


class Dispatcher:
    """What an HttpServer calls. The FastAPI side is made by `load`: importing it takes longer than all the rest."""

    def __init__(self, gateway: Gateway, make_rest: Callable[[], Application]) -> None:
        self._gateway = gateway
        self._make_rest = make_rest
        self._rest: asyncio.Future[Application] | None = None

    def __call__(self, request: Request, caller: ResponseWriter) -> Coroutine[Any, Any, None]:
        """Answers one request."""
        operation = BY_PATH.get(request.target)
        if operation is None and b"?" in request.target:
            operation = BY_PATH.get(request.target.partition(b"?")[0])
        if operation is None:
            return self._serve_rest(request, caller)
        if request.method == b"POST":
            return self._gateway.serve(operation, request, caller)
        return _refuse_method(caller)

    async def _serve_rest(self, request: Request, caller: ResponseWriter) -> None:
        """In a task of asyncio's own: AnyIO looks into its tasks."""
        rest = await self.load()
        await asyncio.get_running_loop().create_task(serve_asgi(rest, request, caller))

    async def load(self) -> Application:
        """The FastAPI side; made in a thread when first called, so that the hot path answers meanwhile."""
        if self._rest is None:
            self._rest = asyncio.get_running_loop().run_in_executor(None, self._make_rest)
        return await asyncio.shield(self._rest)


async def _refuse_method(caller: ResponseWriter) -> None:
    error = MethodNotAllowed("Only POST is served at this path.")
    caller.answer(error.status, error_headers(error) + b"allow: POST\r\n", error_body(error, None))


def rest_of(parts: Dependencies) -> Application:
    """The FastAPI application. Imported here: it takes half a second, and the hot path needs none of it."""
    from vllm_service.api.fastapi_app import make_app  # noqa: PLC0415

    return cast("Application", make_app(parts))
