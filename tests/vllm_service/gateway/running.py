"""A gateway on a real socket, with limits, keys and ledger that write down what they were told."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from openai import AsyncOpenAI

from tests.vllm_service.configured_order import ConfiguredOrder
from vllm_service.catalog.model import Catalog, Offer, Provider, ProviderKind, PublicModel
from vllm_service.domain.keys import ApiKey
from vllm_service.domain.plan import Router
from vllm_service.domain.pricing import TokenPrice
from vllm_service.domain.requests import RequestRecord
from vllm_service.domain.status import QuotaState
from vllm_service.errors import RateLimited
from vllm_service.gateway.config_snapshot import ConfigSnapshot, CurrentConfig
from vllm_service.gateway.gateway import Gateway
from vllm_service.gateway.keep_alive import KeepAlive
from vllm_service.http.addresses import AddressLimits, ClientAddresses
from vllm_service.http.asgi import Application
from vllm_service.http.head_check import HeadCheck
from vllm_service.http.limits import ConnectionLimits
from vllm_service.http.pool import ConnectionPool
from vllm_service.http.server import HttpServer
from vllm_service.observability.tracing import Tracer
from vllm_service.resilience.policy import ResiliencePolicy
from vllm_service.resilience.retry_schedule import RetrySettings
from vllm_service.routing.from_catalog import make_router
from vllm_service.server.dispatch import PATHS, Dispatcher
from vllm_service.storage.protocol import Quotas, RememberedKey, ResponseCache
from vllm_service.testing import ScriptedProvider

SECRET = "sk-of-the-caller"
# A place that asks for more patience than this is not tried again.
QUICK = RetrySettings(first_wait_seconds=0.001, jitter_seconds=0.0, longest_wait_seconds=0.5)
PROVIDER_SECRET = "sk-of-the-provider"


@dataclass
class Share:
    """A reservation that remembers how it ended."""

    tokens: int
    ended: list[tuple[int, int] | None] = field(default_factory=list)

    async def settle(self, tokens: int, cost_picousd: int) -> None:
        self.ended.append((tokens, cost_picousd))

    async def release(self) -> None:
        self.ended.append(None)


@dataclass
class Books:
    """Keys, quotas and ledger in one."""

    shares: list[Share] = field(default_factory=list)
    rows: list[RequestRecord] = field(default_factory=list)
    #: The rows of attempts whose answers were not used.
    cuts: list[RequestRecord] = field(default_factory=list)
    keys: dict[str, ApiKey] = field(default_factory=lambda: {SECRET: ApiKey("key-1", "acme")})
    # Whether keys are in memory before they are looked up; what was looked up; set once the store answers.
    remembers: bool = True
    looked_up: list[str] = field(default_factory=list)
    key_store: asyncio.Event | None = None
    is_full: bool = False
    _recorded: asyncio.Condition = field(default_factory=asyncio.Condition)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    async def find(self, secret: str) -> ApiKey | None:
        self.looked_up.append(secret)
        if self.key_store is not None:
            await self.key_store.wait()
        return self.keys.get(secret)

    def is_known(self, secret: str) -> bool:
        return self.remembered(secret) is not None

    def remembered(self, secret: str) -> RememberedKey | None:
        key = self.keys.get(secret) if self.remembers else None
        return None if key is None else RememberedKey(key, 0.0)

    async def reserve(
        self, key: ApiKey, client_ip: str | None, tokens: int, cost_picousd: int, now_seconds: float
    ) -> Share:
        if self.is_full:
            raise RateLimited("The limit of requests a minute is used up.", retry_after_seconds=7.2)
        self.shares.append(Share(tokens))
        return self.shares[-1]

    def status(self) -> QuotaState:
        return QuotaState()

    def record(self, row: RequestRecord) -> None:
        self.rows.append(row)
        self._wake.set()

    async def row(self, number: int = 0) -> RequestRecord:
        """Waits for the row."""
        while len(self.rows) <= number:
            self._wake.clear()
            await self._wake.wait()
        return self.rows[number]


def catalog_of(*urls: str, **provider: Any) -> Catalog:
    """One model, `small` alias `gpt-3.5-turbo`, at as many providers as there are URLs."""
    price = TokenPrice.per_million("0.10", "0.20")
    names = [f"provider-{number}" for number in range(1, len(urls) + 1)]
    model = PublicModel(
        "small",
        tuple(Offer(name, "small-there", price) for name in names),
        aliases=("gpt-3.5-turbo",),
        baseline_price=TokenPrice.per_million("1", "2"),
    )
    providers = {
        name: Provider(name, ProviderKind.HOSTED, url, PROVIDER_SECRET, **provider)
        for name, url in zip(names, urls, strict=True)
    }
    return Catalog(providers, {"small": model, "gpt-3.5-turbo": model})


@dataclass
class Running:
    """The gateway: `url` with `/v1`, the official client, and what was written down."""

    url: str
    port: int
    books: Books
    gateway: Gateway
    server: HttpServer
    client: AsyncOpenAI
    http: httpx.AsyncClient
    upstream: ConnectionPool

    @property
    def has_paused_a_provider(self) -> bool:
        """Whether the gateway has stopped reading an answer, since its caller does not read."""
        return any(connection.is_paused for pool in self.upstream._pools.values() for connection in pool._all)

    async def connection(self, own_address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Opens a connection from this address of this machine."""
        return await asyncio.open_connection("127.0.0.1", self.port, local_addr=(own_address, 0))

    async def raw(self, data: bytes, *, until_closed: bool = True) -> bytes:
        """Sends bytes over a connection of its own; what came back until the gateway closed it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        try:
            return await asyncio.wait_for(reader.read(), 10)
        finally:
            writer.close()


async def _nothing_else(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 418, "headers": [(b"x-path", scope["raw_path"])]})
    await send({"type": "http.response.body", "body": (await receive())["body"]})


@asynccontextmanager
async def running(
    catalog: Catalog,
    *,
    limits: ConnectionLimits | None = None,
    responses: ResponseCache | None = None,
    tracer: Tracer | None = None,
    policy: ResiliencePolicy | None = None,
    router_costs: bool = False,
    router: Router | None = None,
    quotas: Quotas | None = None,
    wall_clock: Callable[[], float] | None = None,
    recorders: Sequence[Callable[[RequestRecord], None]] = (),
    application: Application | None = None,
    keep_alive: KeepAlive | None = None,
    addresses: ClientAddresses | None = None,
    address_limits: AddressLimits | None = None,
) -> AsyncIterator[Running]:
    """A gateway in this process. quotas None: without limits. recorders: told of each row before the books are."""
    books = Books()
    upstream = ConnectionPool()
    default = make_router(catalog, "QUALITY") if router_costs else ConfiguredOrder(catalog)
    gateway = Gateway(
        config=CurrentConfig(ConfigSnapshot(catalog, router or default)),
        upstream=upstream,
        quotas=quotas or books,
        recorders=[*recorders, books.record],
        responses=responses,
        tracer=tracer,
        policy=policy or ResiliencePolicy.of(retries=QUICK),
        record_loss=books.cuts.append,
        wall_clock=wall_clock,
        keep_alive=keep_alive,
    )
    head_check = HeadCheck(
        asyncio.get_running_loop().time,
        keys=books,
        addresses=addresses,
        limits=address_limits,
        paths=PATHS,
    )
    server = HttpServer(Dispatcher(gateway, lambda: application or _nothing_else), limits, head_check)
    try:
        async with _listening(server) as port, _clients(f"http://127.0.0.1:{port}/v1") as (http, client):
            yield Running(f"http://127.0.0.1:{port}/v1", port, books, gateway, server, client, http, upstream)
    finally:
        await upstream.close()


@asynccontextmanager
async def _listening(server: HttpServer) -> AsyncIterator[int]:
    """Listens on a free port; stops the server at the end."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    port: int = listening.getsockname()[1]
    await server.listen(listening)
    try:
        yield port
    finally:
        await server.stop(within_seconds=2)


@asynccontextmanager
async def _clients(url: str) -> AsyncIterator[tuple[httpx.AsyncClient, AsyncOpenAI]]:
    """Clients with a key, closed at the end."""
    http = httpx.AsyncClient(headers={"authorization": f"Bearer {SECRET}"}, timeout=20)
    client = AsyncOpenAI(api_key=SECRET, base_url=url, max_retries=0, timeout=20)
    try:
        yield http, client
    finally:
        await client.close()
        await http.aclose()


@asynccontextmanager
async def gateway_to(upstream: ScriptedProvider, **settings: Any) -> AsyncIterator[Running]:
    """A gateway to one scripted provider."""
    async with upstream, running(catalog_of(upstream.url), **settings) as gateway:
        yield gateway
