"""Makes the FastAPI application: everything that is served besides the model operations."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse

from vllm_service.api.dependencies import Dependencies
from vllm_service.api.errors import OutermostMiddleware, add_error_handlers
from vllm_service.api.health import health_router
from vllm_service.api.metrics import metrics_router
from vllm_service.api.models import models_router
from vllm_service.api.openapi import publish
from vllm_service.api.performance import performance_router
from vllm_service.api.schemas import ErrorAnswer

PAGE = files("vllm_service.api").joinpath("playground.html").read_text(encoding="utf-8")
#: Of every page. It allows only what the page itself holds, so that a key typed into it can be sent only to this
#: gateway: by no form, no other base for its addresses, and no page around it that covers the field for the key.
PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",  # for browsers without frame-ancestors
}
playground_router = APIRouter(include_in_schema=False)


@playground_router.get("/")
async def playground() -> HTMLResponse:
    """Returns the playground page, which has a field for a key."""
    return HTMLResponse(PAGE, headers=PAGE_HEADERS)


def make_metrics_app(dependencies: Dependencies) -> FastAPI:
    """Returns the application of a port of its own for `/metrics`, which needs no key there. It has no other path."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_middleware(OutermostMiddleware)
    add_error_handlers(app)
    app.include_router(metrics_router(replace(dependencies, metrics_need_key=False)))
    return app


def make_app(dependencies: Dependencies) -> FastAPI:
    """Returns the application: models, health, performance, metrics (each also under `/v1`) and a playground at `/`.

    `/openapi.json` is public, since it holds nothing of this deployment.
    """
    # FastAPI's own documentation pages load scripts from another site, so they are off.
    app = FastAPI(docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_middleware(OutermostMiddleware)
    add_error_handlers(app)
    with_key = APIRouter(responses={401: {"model": ErrorAnswer}})
    with_key.include_router(models_router(dependencies))
    with_key.include_router(performance_router(dependencies))
    for prefix in ("", "/v1"):
        app.include_router(health_router(dependencies), prefix=prefix)
        if dependencies.serves_metrics:
            app.include_router(metrics_router(dependencies), prefix=prefix)
        app.include_router(with_key, prefix=prefix)
    app.include_router(playground_router)
    publish(app)
    return app
