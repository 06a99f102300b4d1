"""One endpoint over `AsyncOpenAI(max_retries=0)`: a request in, an answer or a stream out, all errors ServiceError.

The SDK's `post` is used, not its resources. It sends the same request, but does not build the SDK's response models,
which take a third of a call's time; payload.py reads the parts of an answer that are needed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

import httpx2
import openai
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from vllm_service.client.cost_info import MARK, read_annotation
from vllm_service.client.errors import BadAnswer, StreamBroken, Unreachable, at_endpoint, from_judgement, from_sdk
from vllm_service.client.event_stream import EventStream, judged
from vllm_service.client.payload import Payload, read_whole, request_id
from vllm_service.client.per_loop import PerLoop
from vllm_service.client.results import Answer
from vllm_service.client.retry import retrying
from vllm_service.client.settings import RetryPolicy, header_value, seconds
from vllm_service.domain.pricing import TokenPrice
from vllm_service.domain.stream_options import StreamOptionsSupport
from vllm_service.domain.urls import url_fault
from vllm_service.domain.usage import Usage
from vllm_service.errors import ConfigurationError, ServiceError, UpstreamFailed
from vllm_service.gateway.answer_text import estimated_tokens
from vllm_service.gateway.provider_errors import error_words


class Connection:
    """Keeps connections open until it is closed, or their event loop ends; each loop has its own.

    prices: by model; the cost of any other model is unknown. reads_annotations: if the server is this project's
    gateway, the cost is the one in its answers, and so is the provider unless names_provider is False. http_client: is
    used in one loop only, the first.
    follow_redirects: without an http_client; if it is False, a redirect is an error. owner: the class that errors name.
    stream_options: whether streams are sent with them; None: until the server refuses them.
    Raises ConfigurationError for a base_url, an api_key or a time with which nothing can be sent.
    """

    def __init__(
        self,
        *,
        provider: str,
        endpoint: str,
        base_url: str,
        api_key: str,
        timeout_seconds: float,
        connect_timeout_seconds: float | None = None,
        prices: Mapping[str, TokenPrice] | None = None,
        http_client: httpx2.AsyncClient | None = None,
        owner: str = "RunPodVLLMService",
        reads_annotations: bool = False,
        names_provider: bool = True,
        follow_redirects: bool = True,
        stream_options: bool | None = None,
    ) -> None:
        self.provider = provider
        self.endpoint = endpoint
        self._prices = dict(prices or {})
        self._stream_options = StreamOptionsSupport.configured(stream_options)
        self._http_client = http_client
        self._reads_annotations = reads_annotations
        self._names_provider = names_provider
        key, limit_seconds = header_value(api_key, "api_key"), seconds(timeout_seconds, "timeout_seconds")
        timeout = httpx2.Timeout(limit_seconds, connect=connect_timeout_seconds or limit_seconds)
        opened = _Opened(_url(base_url), key, timeout, http_client, follow_redirects)
        self._sdks = PerLoop(owner, opened.new, AsyncOpenAI.close)

    @property
    def sdk(self) -> AsyncOpenAI:
        """Returns the loop's SDK. Raises ConfigurationError without a usable loop, InvalidRequest after close()."""
        sdk = self._sdks.get()
        if self._http_client is not None and self._http_client.is_closed:
            raise ConfigurationError(
                "http_client: it is closed; make another one, and a client with it", param="http_client"
            )
        return sdk

    async def answer(self, ask: Payload, policy: RetryPolicy) -> Answer:
        """Returns the whole answer, after as many attempts as the policy allows. Raises ServiceError."""
        started = time.perf_counter()
        return await retrying(lambda number: self.attempt(ask, started, number), policy)

    async def attempt(self, ask: Payload, started: float, number: int = 1) -> Answer:
        """Sends the request once, and returns the whole answer. Raises ServiceError.

        started: where the answer's latency begins, by time.perf_counter. number: of the attempt.
        """
        content = ask.content()
        with self.raising_ours():
            response = await self.sdk.post(ask.route, cast_to=httpx2.Response, content=content)
            _is_answer(response)
            whole = read_whole(judged(ask.form, response.content, response.headers))
        usage = ask.counted(whole.usage, lambda: estimated_tokens(response.content))
        cost = self.cost_picousd(ask.model, usage)
        answer = Answer(
            text=whole.text,
            model=ask.model,
            provider=self.provider,
            usage=usage,
            cost_picousd=cost,
            cost_is_estimate=cost is not None and usage is not None and usage.estimated,
            latency_ms=(time.perf_counter() - started) * 1000,
            request_id=request_id(response.headers),
            finish_reason=whole.finish_reason,
            attempts=number,
            message=whole.message,
            others=whole.others,
        )
        return self.annotated(answer, response.content)

    def annotated(self, answer: Answer, document: bytes | None) -> Answer:
        """Returns the answer with the gateway's annotation in `document`, if there is one."""
        if not self._reads_annotations or document is None or MARK not in document:
            return answer
        if (annotation := read_annotation(document)) is None:
            return answer
        is_known = annotation.cost_picousd is not None
        return replace(
            answer,
            provider=(annotation.provider if self._names_provider else None) or answer.provider,
            cost_picousd=annotation.cost_picousd if is_known else answer.cost_picousd,
            cost_is_estimate=is_known and annotation.is_estimate,
            route_reason=answer.route_reason or annotation.route_reason,
        )

    async def open_stream(self, ask: Payload) -> EventStream:
        """Opens a stream of an answer's chunks, as JSON. Raises ServiceError."""
        options = self._stream_options
        if not options.are_sent:
            return await self._open_stream(ask, takes_options=False)
        try:
            stream = await self._open_stream(ask, takes_options=True)
        except ServiceError as error:
            if not _may_be_why(options, error):
                raise
        else:
            options.taken()
            return stream
        stream = await self._open_stream(ask, takes_options=False)
        options.refused()
        return stream

    async def _open_stream(self, ask: Payload, *, takes_options: bool) -> EventStream:
        content = ask.stream_content(has_usage=takes_options)
        with self.raising_ours():
            stream = await self._post_stream(ask, content)
            if stream.response.status_code != HTTPStatus.OK:
                await stream.close()
            _is_answer(stream.response)
            stream.form, stream.choices = ask.form, ask.number_of_choices
            return stream

    async def _post_stream(self, ask: Payload, content: bytes) -> EventStream:
        return await self.sdk.post(ask.route, cast_to=object, content=content, stream=True, stream_cls=EventStream)

    async def control(self, method: str, url: str, content: bytes | None = None) -> Any:
        """Makes one call of a JSON API beside the OpenAI route, and returns its document. Raises ServiceError.

        content: the body's JSON. The answer to DELETE may be empty: None.
        """
        with self.raising_ours():
            match method:
                case "GET":
                    response = await self.sdk.get(url, cast_to=httpx2.Response)
                case "PUT":
                    response = await self.sdk.put(url, cast_to=httpx2.Response, content=content)
                case "DELETE":
                    response = await self.sdk.delete(url, cast_to=httpx2.Response)
                case _:
                    response = await self.sdk.post(url, cast_to=httpx2.Response, content=content)
            return None if method == "DELETE" and not response.content else _json(response)

    def cost_picousd(self, model: str, usage: Usage | None) -> int | None:
        """Returns the cost, or None if the price or the tokens are unknown."""
        price = self._prices.get(model)
        return None if price is None or usage is None else price.cost_picousd(usage)

    @contextmanager
    def raising_ours(self, *, begun: bool = False) -> Iterator[None]:
        """Turns the SDK's errors into ServiceError. begun: part of the answer has been handed out."""
        try:
            yield
        except ServiceError as error:
            ours = StreamBroken(error.message, details=error.details) if begun else error
            raise at_endpoint(ours, self.endpoint) from None
        except BadAnswer as bad:
            raise from_judgement(bad, self.endpoint, begun=begun) from bad
        except openai.OpenAIError as error:
            raise from_sdk(error, self.endpoint, begun=begun) from error
        except httpx2.HTTPError as error:  # while a body was read
            kind = StreamBroken if begun else Unreachable
            raise at_endpoint(kind(f"the connection failed: {type(error).__name__}"), self.endpoint) from error
        except Exception as error:  # of a library that the SDK uses, such as the look-up of an odd host name
            text = f"the request failed: {type(error).__name__}"
            raise at_endpoint(StreamBroken(text) if begun else UpstreamFailed(text), self.endpoint) from error

    async def close(self) -> None:
        """Closes every connection."""
        await self._sdks.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _may_be_why(options: StreamOptionsSupport, error: ServiceError) -> bool:
    cause = error.__cause__
    if not isinstance(cause, openai.APIStatusError):
        return False
    words = error_words(cause.response.content)
    return options.may_be_why(cause.status_code, words.param, words.message or "")


def _is_answer(response: httpx2.Response) -> None:
    """Raises UpstreamFailed for a success status without an answer, such as 202."""
    if response.status_code != HTTPStatus.OK:
        raise UpstreamFailed(f"the status of the answer is {response.status_code}, not 200")


class _Opened:
    """Makes the SDK's client for a loop."""

    def __init__(
        self,
        base_url: httpx2.URL,
        api_key: str,
        timeout: httpx2.Timeout,
        http_client: httpx2.AsyncClient | None,
        follow_redirects: bool,
    ) -> None:
        self._base_url = base_url
        self._api_key = api_key
        self._timeout = timeout
        self._http_client = http_client
        self._follow_redirects = follow_redirects
        self._is_taken = False

    def new(self) -> AsyncOpenAI:
        """Returns a new SDK client. Raises ConfigurationError if the given http_client cannot be used here."""
        if self._http_client is not None and self._is_taken:
            raise ConfigurationError(
                "http_client: its connections belong to the event loop in which it was first used. Make a client in "
                "each loop, or leave http_client out",
                param="http_client",
            )
        self._is_taken = True
        sdk = AsyncOpenAI(
            base_url=self._base_url,
            api_key=self._api_key,
            timeout=self._timeout,
            max_retries=0,
            http_client=self._http_client or (None if self._follow_redirects else _without_redirects()),
        )
        # The SDK takes these from OPENAI_ORG_ID, OPENAI_PROJECT_ID, OPENAI_ADMIN_KEY and OPENAI_CUSTOM_HEADERS, which
        # are meant for OpenAI and not for this endpoint.
        sdk.organization = sdk.project = sdk.admin_api_key = None
        sdk._custom_headers = {}
        return sdk


def _without_redirects() -> httpx2.AsyncClient:
    return DefaultAsyncHttpxClient(follow_redirects=False)


def _url(text: str) -> httpx2.URL:
    if (fault := url_fault(text)) is not None:
        raise ConfigurationError(f"base_url: {fault}", param="base_url")
    try:
        return httpx2.URL(text)
    except (httpx2.InvalidURL, ValueError) as error:
        raise ConfigurationError(f"base_url: not a URL ({error})", param="base_url") from None


def _json(response: httpx2.Response) -> Any:
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError):
        raise UpstreamFailed("the answer is not JSON") from None
