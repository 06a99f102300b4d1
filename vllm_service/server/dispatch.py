"""Dispatches requests: the model operations to the gateway, everything else to the FastAPI application.

/metrics may have a port of its own, which has an application of its own too.
"""

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
from vllm_service.http.head_check import Paths
from vllm_service.http.messages import Request, ResponseWriter

#: Answered here, at the price of a refusal, so that no flood of requests makes an orchestrator end the process.
LIVE_TARGETS = frozenset((b"/health/live", b"/v1/health/live"))
LIVE_BODY = b'{"status":"alive"}'
PATHS = Paths(operations=BY_PATH, always=LIVE_TARGETS)


class LoadedApplication:
    """Handles an HttpServer's requests by an application that `load` makes, or the first request."""

    def __init__(self, make: Callable[[], Application]) -> None:
        self._make = make
        self._application: asyncio.Future[Application] | None = None

    async def __call__(self, request: Request, caller: ResponseWriter) -> None:
        """Runs in an asyncio.Task, since AnyIO reads private fields of tasks that an EagerTask does not have."""
        application = await self.load()
        await asyncio.get_running_loop().create_task(serve_asgi(application, request, caller))

    async def load(self) -> Application:
        """Returns the application. The first call makes it in a thread, so that the hot path answers meanwhile."""
        if self._application is None:
            self._application = asyncio.get_running_loop().run_in_executor(None, self._make)
        return await asyncio.shield(self._application)  # a caller who leaves must not cancel it for all others


class Dispatcher:
    """Handles an HttpServer's requests. `load` makes the FastAPI side, whose import takes most of the start's time."""

    def __init__(self, gateway: Gateway, make_fastapi: Callable[[], Application]) -> None:
        self._gateway = gateway
        self._fastapi = LoadedApplication(make_fastapi)

    def __call__(self, request: Request, caller: ResponseWriter) -> Coroutine[Any, Any, None]:
        """Answers one request. Returns the coroutine itself, since an async function around it would cost a frame."""
        # Most targets have no query and are found at once; only then is the target cut.
        operation = BY_PATH.get(request.target)
        if operation is None and b"?" in request.target:
            operation = BY_PATH.get(request.target.partition(b"?")[0])
        if operation is None:
            if request.target in LIVE_TARGETS and request.method in (b"GET", b"HEAD"):
                return _answer_live(caller)
            return self._fastapi(request, caller)
        if request.method == b"POST":
            return self._gateway.serve(operation, request, caller)
        return _refuse_method(caller)

    async def load(self) -> Application:
        """Returns the FastAPI side, made by the first call."""
        return await self._fastapi.load()


async def _answer_live(caller: ResponseWriter) -> None:
    """Answers as api/health.py's route does, which stays for the API's description."""
    caller.answer(200, b"content-type: application/json\r\n", LIVE_BODY)


async def _refuse_method(caller: ResponseWriter) -> None:
    error = MethodNotAllowed("Only POST is served at this path; send the request as POST.")
    caller.answer(error.status, error_headers(error) + b"allow: POST\r\n", error_body(error, None))


def fastapi_application(dependencies: Dependencies) -> Application:
    """Returns the FastAPI application. Imports it only here: that takes half a second and the hot path needs none."""
    from vllm_service.api.fastapi_app import make_app  # noqa: PLC0415

    return cast("Application", make_app(dependencies))


def metrics_application(dependencies: Dependencies) -> Application:
    """Returns the application of METRICS_PORT, imported as late as the other."""
    from vllm_service.api.fastapi_app import make_metrics_app  # noqa: PLC0415

    return cast("Application", make_metrics_app(dependencies))
