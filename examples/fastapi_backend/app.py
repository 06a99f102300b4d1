"""The application: one client from its start to its end, its routes, and the right status for every error.

RUNPOD_API_KEY=... RUNPOD_VLLM_ENDPOINT_ID=... uvicorn examples.fastapi_backend.app:app
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from examples.fastapi_backend.routes import router
from vllm_service import RunPodVLLMService, ServiceError

#: The provider refused this backend's own key. The backend's caller cannot change that, so it gets 502.
OUR_KEY = (401, 403)


def create_app(make_service: Callable[[], RunPodVLLMService] = RunPodVLLMService) -> FastAPI:
    """Returns the application. Its client is made when it starts, and closed when it ends."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with make_service() as service:
            app.state.service = service
            yield

    app = FastAPI(title="A backend in front of your own endpoint", lifespan=lifespan)
    app.include_router(router)
    app.add_exception_handler(ServiceError, answer_error)
    return app


async def answer_error(request: Request, error: Exception) -> JSONResponse:
    """Answers with the error's own status and, where it is known, Retry-After."""
    assert isinstance(error, ServiceError)
    headers = {} if error.retry_after is None else {"Retry-After": str(max(1, round(error.retry_after)))}
    status = 502 if error.status_code in OUR_KEY else error.status_code
    return JSONResponse(error.to_json(error.request_id), status, headers)


app = create_app()
