"""Everything but the chat path as one FastAPI application."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, Depends, FastAPI
from fastapi.responses import HTMLResponse

from vllm_service.api.authentication import required_key
from vllm_service.api.dependencies import Dependencies
from vllm_service.api.errors import Outermost, add_error_handlers
from vllm_service.api.health import health_router
from vllm_service.api.metrics import metrics_router
from vllm_service.api.models import models_router
from vllm_service.api.openapi import publish
from vllm_service.api.performance import performance_router
from vllm_service.api.schemas import ErrorAnswer

PAGE = files("vllm_service.api").joinpath("playground.html").read_text(encoding="utf-8")
# Only what the page itself holds: a key that is typed into it goes nowhere else.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
playground_router = APIRouter(include_in_schema=False)


@playground_router.get("/")
async def playground() -> HTMLResponse:
    """The page; it asks for a key where keys are required."""
    return HTMLResponse(PAGE, headers={"content-security-policy": POLICY, "referrer-policy": "no-referrer"})


def make_app(parts: Dependencies) -> FastAPI:
    """Models, health, performance and metrics, each with and without `/v1` in front; errors in the one format.

    Besides them the page at `/`, to try it. The pages that FastAPI makes of the document load scripts from elsewhere,
    so there are none: `/openapi.json` is for tools, and holds nothing of this deployment.
    """
    app = FastAPI(docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_middleware(Outermost)
    add_error_handlers(app)
    with_key = APIRouter(dependencies=[Depends(required_key(parts.keys))], responses={401: {"model": ErrorAnswer}})
    with_key.include_router(models_router(parts))
    with_key.include_router(performance_router(parts))
    for prefix in ("", "/v1"):
        app.include_router(health_router(parts), prefix=prefix)
        if parts.serves_metrics:
            app.include_router(metrics_router(parts), prefix=prefix)
        app.include_router(with_key, prefix=prefix)
    app.include_router(playground_router)
    publish(app)
    return app
