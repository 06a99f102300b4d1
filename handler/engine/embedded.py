"""vLLM in this process: its own OpenAI app, built once and called as ASGI, without socket or HTTP parsing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, MutableMapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from typing import Any

from handler.engine import adapters, vllm_parts
from handler.engine.adapters import ADAPTER_PATHS, LOAD_ADAPTER_PATH, SharedAdapters
from handler.engine.loading import Loading, explained
from handler.engine.models import EngineModels
from handler.engine.protocol import Answer, EngineRequest, Header, answer_of
from handler.engine.vllm_parts import EngineSteps
from handler.errors import EngineUnavailable, NotBegun, StreamBroken
from handler.settings import WorkerSettings
from handler.start.archive_trust import ArchiveTrust
from handler.start.code_caches import are_placed
from handler.start.compile_cache import Compilations
from handler.start.daemon_threads import DaemonThreads
from handler.start.timeline import Timeline

Message = MutableMapping[str, Any]
AsgiApp = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]

# How long a stopping worker waits for compilations that are being kept. What is not whole by then is not published.
KEEP_SECONDS = 2.0
# How long an app may take to end by itself after the disconnect.
WIND_UP_SECONDS = 1.0
# What may wait for one slow reader. A hundred tokens a second take ten minutes to make so much.
MOST_UNREAD_BYTES = 32 << 20


class EmbeddedEngine:
    """An `Engine`: vLLM's API without a port, a second server process, or a copy of its code."""

    def __init__(
        self, settings: WorkerSettings, *, load_in_thread: bool = False, timeline: Timeline | None = None
    ) -> None:
        """Prepares the engine; `start` loads it.

        load_in_thread: keep the event loop free while the model loads, for a worker that must answer pings.
        """
        self._timeline = timeline or Timeline(settings.start.usd_per_second)
        self._load_in_thread = load_in_thread
        self._resources = AsyncExitStack()
        self._app: Any = None  # vLLM's FastAPI app
        self._llm: Any = None  # vLLM's AsyncLLM
        self._headers: list[Header] = []
        self._steps = EngineSteps()
        self._models = EngineModels(settings.models)
        self._adapters_dir = settings.models.adapters_dir
        self._adapters: SharedAdapters | None = None  # where the engine takes any
        start = settings.start
        trust = ArchiveTrust(start.compile_cache_secret, start.compile_cache_trust)
        shared = are_placed(settings.environment)
        self._compilations = Compilations(start.compile_cache_dir, trust=trust, shared_libraries=shared)
        self._loading = Loading(settings, self._models, self._compilations, self._steps, self._timeline)

    async def start(self) -> None:
        """Imports vLLM, loads the model, builds the app; logs what each phase took."""
        started = await self._loading.run(in_a_thread=self._load_in_thread)
        self._llm = started.llm
        self._resources.callback(vllm_parts.stop_llm, self._llm)
        with explained(started.command, started.parser), self._timeline.phase("api", "building the API"):
            self._app = await vllm_parts.build_api(started.arguments, self._llm)
            await self._resources.enter_async_context(self._app.router.lifespan_context(self._app))
        if started.arguments.enable_lora:
            self._adapters = SharedAdapters(self._adapters_dir, vllm_parts.LoadedAdapters(self._app, self._llm))
        self._headers = vllm_parts.credentials(started.arguments)
        self._timeline.report()
        keeping = asyncio.create_task(DaemonThreads("compile-cache", 1).run(self._compilations.keep))
        self._resources.push_async_callback(_ended_within, keeping, KEEP_SECONDS)

    def send(self, request: EngineRequest) -> AbstractAsyncContextManager[Answer]:
        """Calls vLLM's app in this process."""
        return self._send(request)

    @asynccontextmanager
    async def _send(self, request: EngineRequest) -> AsyncIterator[Answer]:
        self._require_life()
        path = request.path.partition("?")[0]
        if path in ADAPTER_PATHS:
            request = await self._prepared(request, path)
        async with call_app(self._app, request, self._headers) as answer:
            if answer.status != HTTPStatus.NOT_FOUND or not await self._now_has_the_adapter_of(request):
                yield adapters.with_advice(path, answer, self._adapters_dir) if path in ADAPTER_PATHS else answer
                return
        self._require_life()
        async with call_app(self._app, request, self._headers) as answer:
            yield answer

    async def _prepared(self, request: EngineRequest, path: str) -> EngineRequest:
        """Returns a request that changes the adapters, with what it loads on this disk; raises WorkerError."""
        adapters.check_route(path, {getattr(route, "path", "") for route in self._app.routes}, self._adapters_dir)
        if path == LOAD_ADAPTER_PATH:
            request = await self._models.with_local_adapter(request)
            self._require_life()  # it may have ended during the download
        return request

    async def _now_has_the_adapter_of(self, request: EngineRequest) -> bool:
        return self._adapters is not None and await self._adapters.load_for(request)

    def request_fields(self, path: str) -> Collection[str]:
        """Returns the fields of the request model of vLLM's own route."""
        for route in self._app.routes if self._app else ():
            body = getattr(route, "body_field", None)
            if getattr(route, "path", None) == path and body is not None:
                return _model_fields(body)
        return ()

    @property
    def capacity(self) -> int:
        """The most sequences that vLLM batches (`max_num_seqs`), fewer while its KV cache is full, 0 once it died."""
        if self._fault:
            return 0
        return self._steps.capacity(self._llm.vllm_config.scheduler_config.max_num_seqs)

    @property
    def progress(self) -> int | None:
        """The number of steps whose outputs have come back from the engine core; None while no request is inside it."""
        return self._steps.count if self._llm and vllm_parts.has_requests(self._llm) else None

    async def check_health(self) -> None:
        """Raises EngineUnavailable once the engine's process has died."""
        if fault := self._fault:
            raise EngineUnavailable(fault)

    @property
    def _fault(self) -> str | None:
        if self._app is None:
            return "the engine has not started"
        return "the engine has died" if self._llm.errored else None

    def _require_life(self) -> None:
        if fault := self._fault:
            raise NotBegun(fault)

    async def stop(self) -> None:
        """Ends the app and the engine's processes."""
        await self._resources.aclose()
        self._app = self._llm = None


async def _ended_within(task: asyncio.Task[None], seconds: float) -> None:
    """Lets the task end by itself for so long, then cancels it."""
    await asyncio.wait({task}, timeout=seconds)
    task.cancel()


def _model_fields(body: Any) -> Collection[str]:
    model = getattr(body, "type_", None) or getattr(body.field_info, "annotation", None)
    return frozenset(getattr(model, "model_fields", ()))


@asynccontextmanager
async def call_app(
    app: AsgiApp,
    request: EngineRequest,
    headers: Iterable[Header] = (),
    *,
    wind_up_seconds: float = WIND_UP_SECONDS,
    most_unread_bytes: int = MOST_UNREAD_BYTES,
) -> AsyncIterator[Answer]:
    """Runs `app` for one request. Leaving the context before the body ended disconnects the app's client.

    Raises whatever the app raises before it answers, and StreamBroken if it fails or falls silent after that.
    """
    exchange = _Exchange(request, most_unread_bytes)
    task = asyncio.create_task(_run(app, _scope(request, headers), exchange))
    try:
        status, content_type, answer_headers = await exchange.head
        yield answer_of(status, content_type, exchange.body(), answer_headers)
    finally:
        exchange.gone.set()
        await _finish(task, wind_up_seconds)


async def _run(app: AsgiApp, scope: MutableMapping[str, Any], exchange: _Exchange) -> None:
    try:
        await app(scope, exchange.receive, exchange.send)
        exchange.end(None)
    except Exception as error:
        exchange.end(error)


async def _finish(task: asyncio.Task[None], wind_up_seconds: float) -> None:
    """Lets a disconnected app wind up, so that vLLM aborts the request; then cancels it."""
    done, _ = await asyncio.wait({task}, timeout=wind_up_seconds)
    if not done:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class _Exchange:
    """The two ends of one request: what the app receives, and what it sends.

    `send` never waits, so a streaming app is always inside its own generator when the caller leaves. There a
    cancellation aborts vLLM's request at once. A generator abandoned at a `yield` would live until it is garbage-
    collected. A reader who is too far behind loses the answer, so that it does not take the memory of the others.
    """

    def __init__(self, request: EngineRequest, most_unread_bytes: int = MOST_UNREAD_BYTES) -> None:
        self.gone = asyncio.Event()
        self.head: asyncio.Future[tuple[int, str, list[Header]]] = asyncio.get_running_loop().create_future()
        self._request_body: bytes | None = request.body or b""
        self._pieces: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self._complete = False
        self._most_unread_bytes = most_unread_bytes
        self._unread_bytes = 0

    async def receive(self) -> Message:
        body, self._request_body = self._request_body, None
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            content_type = dict(headers).get(b"content-type", b"").decode("latin-1")
            if not self.head.done():  # it is cancelled where the caller left before the answer
                self.head.set_result((message["status"], content_type, headers))
            return
        if self._unread_bytes > self._most_unread_bytes:  # one more piece after that, however large one alone may be
            self._give_up()
            return
        if piece := message.get("body", b""):
            self._unread_bytes += len(piece)
            self._pieces.put_nowait(bytes(piece))
        if not message.get("more_body", False):
            self._complete = True
            self._pieces.put_nowait(None)

    def _give_up(self) -> None:
        """Drops what has not been read, and ends the request in the engine."""
        if self.gone.is_set():
            return
        while not self._pieces.empty():
            self._pieces.get_nowait()
        megabytes = self._most_unread_bytes >> 20
        self._pieces.put_nowait(
            StreamBroken(f"the answer was given up: its reader was more than {megabytes} MiB behind")
        )
        self.gone.set()

    def end(self, error: Exception | None) -> None:
        """Ends the answer when the app has returned or raised `error`, unless it is complete or unwanted."""
        if self.gone.is_set() or (self._complete and self.head.done()):
            return
        if error is None:
            error = StreamBroken("the engine ended its answer without completing it")
        if not self.head.done():
            self.head.set_exception(error)
        elif isinstance(error, StreamBroken):
            self._pieces.put_nowait(error)
        else:
            name = type(error).__name__
            self._pieces.put_nowait(StreamBroken(f"the engine failed in the middle of its answer: {name}"))

    async def body(self) -> AsyncIterator[bytes]:
        while (piece := await self._pieces.get()) is not None:
            if isinstance(piece, Exception):
                raise piece
            self._unread_bytes -= len(piece)
            yield piece


def _scope(request: EngineRequest, headers: Iterable[Header]) -> MutableMapping[str, Any]:
    path, _, query = request.path.partition("?")
    return {
        "type": "http",
        # With 2.3 Starlette watches for the disconnect while it streams; from 2.4 on it waits for a send to fail.
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [
            (b"host", b"worker"),
            (b"content-type", request.content_type.encode("latin-1")),
            *headers,
            *request.headers,
        ],
        "client": ("127.0.0.1", 0),
        "server": ("worker", 80),
        "state": {},
    }
