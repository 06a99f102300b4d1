"""Whatever a public call is given, it returns or raises ServiceError; the calls are found by introspection."""

from __future__ import annotations

import asyncio
import inspect
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vllm_service
from tests.vllm_service.client.runpod_provider import AT_ONCE, runpod
from vllm_service import (
    BatchJob,
    LLMRouter,
    RateLimit,
    RetryPolicy,
    RunPodVLLMService,
    RunPodVLLMServiceSync,
    ServiceError,
    TextStream,
    TokenPrice,
    compare_costs,
)
from vllm_service.catalog.model import Catalog, Offer, Provider, ProviderKind, PublicModel
from vllm_service.client.runpod.sync import SyncBatchJob, SyncIterator, SyncTextStream
from vllm_service.testing import ReceivedRequest, Reply, says, whole

CALLERS: tuple[type, ...] = (RunPodVLLMService, RunPodVLLMServiceSync, LLMRouter)
#: What a caller makes that makes calls, too.
MADE: tuple[type, ...] = (BatchJob, SyncBatchJob)
READ: tuple[type, ...] = (TextStream, SyncTextStream, SyncIterator)
SETTINGS = (RetryPolicy, RateLimit)
SCRATCH = Path(tempfile.gettempdir()) / f"whatever-input-{os.getpid()}"


class Spiteful:
    """Raises whatever is done with it."""

    def _raise(self, *args: object) -> NoReturn:
        raise ZeroDivisionError("a secret of the caller")

    __bool__ = __len__ = __iter__ = __eq__ = __str__ = __float__ = __int__ = __index__ = __call__ = _raise
    __hash__ = object.__hash__


def circle() -> list[object]:
    round_: list[object] = []
    round_.append(round_)
    return round_


def deep() -> list[object]:
    nested: list[object] = []
    for _ in range(5000):
        nested = [nested]
    return nested


def breaking() -> Iterator[str]:
    yield "hi"
    raise ZeroDivisionError


async def asleep() -> None:
    """A function that is no scorer and no progress."""


MESSAGES = [{"role": "user", "content": "hi"}]
#: Made anew for each example, since some can be read once.
ODD: list[Callable[[], Any]] = [
    *(lambda value=value: value for value in (None, True, -1, 0, 3, 10**400, -(10**400), 1.5, 1e308)),
    *(lambda text=text: float(text) for text in ("nan", "inf", "-inf")),
    *(lambda value=value: value for value in ("", "hi", "cut \ud83d", "\udcff", "a\nb", "\x00", "..", "a/b", "é")),
    *(lambda value=value: value for value in (b"hi", {1, 2}, (), (1,), [None], ["hi"], ["cut \ud83d", 5, {}, b"x"])),
    *(lambda value=value: value for value in ({}, {"a": {1}}, {1: 2}, {(1,): 2}, {"\ud83d": 1}, {"a": float("nan")})),
    *(lambda value=value: value for value in (MESSAGES, [{"role": "user", "content": "\ud83d"}], [{"role": {1}}])),
    *(lambda value=value: value for value in (Decimal("NaN"), datetime.now(UTC), AT_ONCE, RateLimit(1, 1), int)),
    *(circle, deep, breaking, Spiteful, object, lambda: asleep, lambda: len, lambda: lambda *args: args[0] / 0),
    lambda: {"m": TokenPrice.per_million("1", "1")},
]
odd = st.sampled_from(ODD).map(lambda make: make()) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()), max_size=5),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=3), part, max_size=3),
    max_leaves=5,
)
files = st.sampled_from(
    [None, 5, b"x", {1}, "\x00", "/missing/x", str(SCRATCH), SCRATCH / "\ud83d", SCRATCH / "f", Spiteful()]
)
#: With these the call is made, so that one odd argument among good ones is tried too.
GOOD: Mapping[str, Any] = {
    "prompt": "hi",
    "messages": MESSAGES,
    "prompts": ["hi", "there"],
    "models": ["a", "b"],
    "job_input": {"prompt": "hi"},
    "job_id": "job-1",
    "inputs": [{"prompt": "hi"}],
    "batch_id": "batch-1",
    "request_id": "request-1",
    "name": "nightly",
    "task": "code",
}


def public(kind: type) -> list[str]:
    return sorted(name for name, _ in inspect.getmembers(kind, callable) if not name.startswith("_"))


def parameters(call: Callable[..., Any]) -> list[inspect.Parameter]:
    return [one for one in inspect.signature(call).parameters.values() if one.name != "self"]


@st.composite
def arguments(draw: st.DrawFn, call: Callable[..., Any]) -> dict[str, Any]:
    """Some arguments are odd, the others good or left out; sometimes one more that does not exist."""
    given_: dict[str, Any] = {}
    for one in parameters(call):
        if one.kind is inspect.Parameter.VAR_KEYWORD:
            names = st.sampled_from(["n", "stop", "tools", "max_completion_tokens", "stream", "stream_options", "x"])
            given_ |= draw(st.dictionaries(names, odd, max_size=3))
        elif draw(st.booleans()):
            given_[one.name] = draw(files if one.name == "file" else odd)
        elif one.name in GOOD:
            given_[one.name] = GOOD[one.name]
    return given_


def answer(request: ReceivedRequest) -> Reply:
    """An answer for every call: completions, a job that has ended, and a batch that has."""
    if "/batch" in request.target:
        counts = {"requestTotal": 1, "requestCompleted": 1, "requestFailed": 0}
        return whole({"id": "batch-1", "status": "FINALIZED", "requests": [], "batches": [], **counts})
    if "/openai/" in request.target or request.target.startswith("/v1"):
        return says("fine")(request)
    return whole({"id": "job-1", "status": "COMPLETED", "output": 1, "stream": [], "jobs": {}, "workers": {}})


def catalog(url: str) -> Catalog:
    provider = Provider("own", ProviderKind.RUNPOD, url, "k")
    return Catalog({"own": provider}, {"m": PublicModel("m", (Offer("own", "m"),))})


def made(kind: type, url: str) -> Any:
    if kind is LLMRouter:
        return LLMRouter("QUALITY", catalog(url))
    return kind(api_key="k", base_url=url, retry=AT_ONCE)


async def closed(client: Any) -> None:
    if inspect.isawaitable(ended := client.close()):
        await ended


async def tried(call: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Makes the call and reads what it returns: only ServiceError may come, of an async call when it is awaited."""
    if inspect.iscoroutinefunction(call):
        await allowed(call(**options))
    elif is_async_stream(call):
        await allowed(read(call(**options)))
    else:
        await allowed(asyncio.to_thread(read_in_thread, call, options))


def is_async_stream(call: Any) -> bool:
    hint = str(inspect.signature(call).return_annotation)
    is_stream = hint.startswith(("TextStream", "AsyncGenerator", "AsyncIterator"))
    return is_stream and not isinstance(call.__self__, RunPodVLLMServiceSync)


async def allowed(work: Any) -> None:
    with suppress(ServiceError):
        await asyncio.wait_for(work, 30)


async def read(items: AsyncIterator[object]) -> None:
    async for _ in items:
        pass


def read_in_thread(call: Callable[..., Any], options: Mapping[str, Any]) -> None:
    found = call(**options)
    if isinstance(found, Iterator):
        for _ in found:
            pass


EXAMPLES = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in CALLERS for name in public(kind)])
@EXAMPLES
@given(data=st.data(), is_closed=st.booleans())
async def test_every_call_of_every_client(kind: type, name: str, data: st.DataObject, is_closed: bool) -> None:
    SCRATCH.mkdir(exist_ok=True)
    async with runpod(answer) as server:
        client = await asyncio.to_thread(made, kind, server.url)
        try:
            if is_closed:
                await closed(client)
            options = data.draw(arguments(getattr(kind, name)))
            await tried(getattr(client, name), options)
        finally:
            await closed(client)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in MADE for name in public(kind)])
@EXAMPLES
@given(data=st.data(), is_closed=st.booleans())
async def test_every_call_of_a_batch_job(kind: type, name: str, data: st.DataObject, is_closed: bool) -> None:
    async with runpod(answer) as server:
        maker = RunPodVLLMService if kind is BatchJob else RunPodVLLMServiceSync
        client = await asyncio.to_thread(made, maker, server.url)
        try:
            batch = client.batch_job("batch-1")
            assert type(batch) is kind
            if is_closed:
                await closed(client)
            await tried(getattr(batch, name), data.draw(arguments(getattr(kind, name))))
        finally:
            await closed(client)


@pytest.mark.parametrize("kind", [*CALLERS, *SETTINGS, compare_costs])
@EXAMPLES
@given(data=st.data())
async def test_every_constructor(kind: Callable[..., Any], data: st.DataObject) -> None:
    options = data.draw(arguments(kind))
    with suppress(ServiceError):
        client = kind(**options)
        if kind in CALLERS:
            await closed(client)


@pytest.mark.parametrize("kind", CALLERS)
@pytest.mark.parametrize("name", ["generate", "stream", "complete"])
async def test_a_call_with_arguments_missing_or_too_many(kind: type, name: str) -> None:
    async with runpod(answer) as server:
        client = await asyncio.to_thread(made, kind, server.url)
        method = getattr(client, name)
        for args in [(), ("hi", "m", 1, 0.5, "one more", "and more")]:
            with pytest.raises(ServiceError, match=name):
                await raising(method, args)
        await closed(client)


async def test_the_text_of_an_exception_is_not_in_the_error() -> None:
    async with runpod(answer) as server, RunPodVLLMService(base_url=server.url) as service:
        with pytest.raises(ServiceError) as caught:
            await service.ensemble_generate("hi", ["a"], scorer=lambda prompt, answers: Spiteful()())
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert "secret" not in str(caught.value)


async def raising(call: Callable[..., Any], args: tuple[object, ...]) -> None:
    """Makes the call as `tried` does, and lets its error out."""
    if inspect.iscoroutinefunction(call):
        await call(*args)
    elif is_async_stream(call):
        await read(call(*args))
    else:
        await asyncio.to_thread(lambda: list(call(*args)) if "stream" in call.__name__ else call(*args))


BAD_KEYS = ["", "ké", "k\n", "k\r\nx: y", " k", "k\x00", "\ud83d", 5, b"k"]
BAD_URLS = [
    "",
    "http://",
    "host/v1",
    "ftp://host/v1",
    "http://host:99999/v1",
    "http://host:port/v1",
    f"http://{'a' * 70}.com/v1",
    "http://a b/v1",
    "http://..x/v1",
    "http://host/\ud83d",
    "http://host/v1\n",
    "http://name:secret@host/v1",
    "http://host/v1?key=secret",
    5,
    b"http://host/v1",
]


@pytest.mark.parametrize("kind", [RunPodVLLMService, RunPodVLLMServiceSync])
@pytest.mark.parametrize(
    ("name", "value"), [*(("api_key", key) for key in BAD_KEYS), *(("base_url", url) for url in BAD_URLS)]
)
def test_a_key_or_an_address_with_which_nothing_can_be_sent_is_refused_by_name(
    kind: Any, name: str, value: Any
) -> None:
    good = {"api_key": "k", "base_url": "http://127.0.0.1:9/v1"}
    with pytest.raises(ServiceError, match=name) as caught:
        kind(**{**good, name: value})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("field", ["api_key", "base_url"])
async def test_a_provider_of_the_catalog_is_refused_when_the_router_is_made(field: str) -> None:
    provider = {"name": "p", "kind": ProviderKind.HOSTED, "base_url": "http://127.0.0.1:9/v1", "api_key": "k"}
    bad = Provider(**{**provider, field: "http://h:99999/é\n"})  # type: ignore[arg-type]
    with pytest.raises(ServiceError, match=field):
        LLMRouter("COST", Catalog({"p": bad}, {"m": PublicModel("m", (Offer("p", "m"),))}))


async def test_a_closed_http_client_of_ones_own_is_an_error_of_ours() -> None:
    client = httpx2.AsyncClient()
    await client.aclose()
    async with RunPodVLLMService(base_url="http://127.0.0.1:9/v1", http_client=client) as service:
        with pytest.raises(ServiceError, match="http_client"):
            await service.generate("hi")


async def test_cancellation_and_interrupts_pass_as_they_are() -> None:
    def interrupts(prompt: str, answers: object) -> list[float]:
        raise KeyboardInterrupt

    async def stops(prompt: str, answers: object) -> list[float]:
        raise asyncio.CancelledError

    async with runpod(answer) as server, RunPodVLLMService(base_url=server.url) as service:
        with pytest.raises(KeyboardInterrupt):
            await service.ensemble_generate("hi", ["a"], scorer=interrupts)
        with pytest.raises(asyncio.CancelledError):
            await service.ensemble_generate("hi", ["a"], scorer=stops)


@pytest.mark.parametrize("name", ["stream", "stream_chat"])
async def test_the_error_of_a_stream_comes_with_its_first_piece(name: str) -> None:
    async with runpod(answer) as server, RunPodVLLMService(base_url=server.url) as service:
        asked: Any = "hi" if name == "stream" else MESSAGES
        stream = getattr(service, name)(asked, max_tokens="many")
        with pytest.raises(ServiceError, match="max_tokens: expected an integer"):
            await anext(stream)
    assert server.requests == []


@pytest.mark.parametrize("kind", [*CALLERS, *MADE, *READ])
def test_no_public_method_is_outside_of_the_boundary(kind: type) -> None:
    """A guarded function wraps another one, so a raw one would be found here, without an input that breaks it."""
    raw = [name for name in public(kind) if name != "failing" and not hasattr(getattr(kind, name), "__wrapped__")]
    assert raw == []


def test_every_class_that_makes_calls_is_tried() -> None:
    exported = [getattr(vllm_service, name) for name in vllm_service.__all__]
    async_classes = {
        kind
        for kind in exported
        if isinstance(kind, type) and any(inspect.iscoroutinefunction(getattr(kind, name)) for name in public(kind))
    }
    assert async_classes <= {*CALLERS, *MADE, *READ}
