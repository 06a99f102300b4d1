"""The FastAPI side under uvicorn on a real socket, in a thread, with dependencies that tests set by hand."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from vllm_service.api.dependencies import Dependencies
from vllm_service.api.fastapi_app import make_app
from vllm_service.catalog.model import Catalog, Offer, Provider, ProviderKind, PublicModel
from vllm_service.domain.keys import ApiKey
from vllm_service.domain.pricing import SecondPrice, TokenPrice
from vllm_service.domain.requests import Outcome, RequestRecord
from vllm_service.domain.roles import Role
from vllm_service.domain.status import ServerState, Statuses
from vllm_service.domain.usage import Usage
from vllm_service.observability.measurements import Measurements

KEY = "sk-test-0123456789"
HOSTED = Provider("hosted", ProviderKind.HOSTED, "https://api.hosted.test/v1", api_key="hosted-secret")
RUNPOD = Provider(
    "runpod",
    ProviderKind.RUNPOD,
    "https://user:pass@api.runpod.test/v2/abc123/openai/v1?token=t",
    second_price=SecondPrice.per_second("0.00031"),
    tags=frozenset({"apple-silicon"}),
)
CHAT = PublicModel(
    "llama",
    (Offer("hosted", "llama-3.1-8b", TokenPrice.per_million("0.10", "0.30", "0.05")), Offer("runpod", "llama")),
    aliases=("gpt-3.5-turbo",),
    context_length=8192,
    capabilities=frozenset({"chat"}),
    description="A small model",
    latency_target_seconds=0.2,
    baseline_model="gpt-4o-mini",
)
SQL = PublicModel("org/sql", (Offer("runpod", "sql"),), capabilities=frozenset({"text2sql"}))
CATALOG = Catalog(
    {"hosted": HOSTED, "runpod": RUNPOD},
    {"llama": CHAT, "gpt-3.5-turbo": CHAT, "org/sql": SQL},
)
REQUEST = RequestRecord(
    request_id="req_1",
    started_at=1_800_000_000.0,
    key_id="k1",
    organisation="acme",
    operation="chat.completions",
    model="llama",
    outcome=Outcome.COMPLETED,
    status=200,
    provider="hosted",
    usage=Usage(10, 20),
    cost_picousd=7_000_000,
    baseline_picousd=10_000_000,
    queue_ms=1.0,
    ttft_ms=20.0,
    total_ms=100.0,
    attempts=1,
)


class Clock:
    """Seconds that move when a test says so."""

    def __init__(self, seconds: float = 3600.0) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds


class OneKey:
    """A key store that holds one key."""

    def __init__(self, role: Role = Role.ADMIN) -> None:
        self._role = role

    async def find(self, secret: str) -> ApiKey | None:
        return ApiKey("k1", "acme", role=self._role) if secret == KEY else None


class KeyPerRole:
    """A key store that holds a key for each role: `sk-` and the role's name."""

    async def find(self, secret: str) -> ApiKey | None:
        return next((ApiKey("k1", "acme", role=role) for role in Role if secret == f"sk-{role}"), None)


def headers_of(role: Role | None) -> dict[str, str]:
    """Returns the headers of a request with KeyPerRole's key; None: of a stranger."""
    return {} if role is None else {"Authorization": f"Bearer sk-{role}"}


def _same(status: object) -> object:
    return status


LISTENING = ServerState(is_listening=True)


def statuses(*known: object) -> Statuses:
    """Returns these statuses; the server listens unless one of them says otherwise."""
    registered = Statuses()
    for status in known if any(isinstance(one, ServerState) for one in known) else (LISTENING, *known):
        registered.register(type(status), partial(_same, status))
    return registered


def dependencies(
    known: Statuses | None = None,
    *,
    catalog: Callable[[], Catalog] = lambda: CATALOG,
    clock: Callable[[], float] | None = None,
    **others: Any,
) -> Dependencies:
    """Without keys unless they are given."""
    measurements = Measurements(catalog, 0.5, *([clock] if clock else []))
    return Dependencies(catalog, measurements, known or statuses(), **others)


@contextmanager
def serving(app: ASGIApp) -> Iterator[str]:
    """The address of the application, until the block is left."""
    with socket.create_server(("127.0.0.1", 0)) as listening:  # connections wait in its backlog until uvicorn runs
        server = uvicorn.Server(
            uvicorn.Config(app, lifespan="off", access_log=False, log_config=None, timeout_graceful_shutdown=5)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def served(service_dependencies: Dependencies) -> Iterator[str]:
    """The address of make_app with these dependencies."""
    with serving(make_app(service_dependencies)) as address:
        yield address
