"""The page at `/`: a message, the answer as it streams in, and what it cost. Without scripts from elsewhere."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

PAGE = files("vllm_service.api").joinpath("playground.html").read_text(encoding="utf-8")
# Only what the page itself holds: a key that is typed into it goes nowhere else.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"

playground_router = APIRouter(include_in_schema=False)


@playground_router.get("/")
async def playground() -> HTMLResponse:
    """The page; it asks for a key where keys are required."""
    return HTMLResponse(PAGE, headers={"content-security-policy": POLICY, "referrer-policy": "no-referrer"})
