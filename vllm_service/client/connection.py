"""One endpoint over `AsyncOpenAI(max_retries=0)`: an ask in, an answer or a stream out, every error of the one tree.

The SDK's `post` is used, not its resources: it sends the same request, and spares each call the SDK's building of
response models, which takes a third of its time; what is needed of an answer is read in asks.py.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

import httpx2
import openai
from openai import AsyncOpenAI, AsyncStream

from vllm_service.client.asks import Ask, Json, read_whole
from vllm_service.client.errors import StreamBroken, Unreachable, from_sdk, placed, request_id
from vllm_service.client.results import Answer
from vllm_service.client.retry import retrying
from vllm_service.client.settings import RetryPolicy
from vllm_service.domain.pricing import TokenPrice
from vllm_service.domain.usage import Usage
from vllm_service.errors import ServiceError, UpstreamFailed


class Connection:
    """Keeps connections open until it is closed. `prices` by model; a model that is not in it has no known cost."""

    def __init__(
        self,
        *,
        provider: str,
        endpoint: str,
        base_url: str,
        api_key: str,
        timeout_seconds: float,
        prices: Mapping[str, TokenPrice] | None = None,
        http_client: httpx2.AsyncClient | None = None,
    ) -> None:
        self.provider = provider
        self.endpoint = endpoint
        self._prices = dict(prices or {})
        self.sdk = AsyncOpenAI(
            base_url=base_url, api_key=api_key, timeout=timeout_seconds, max_retries=0, http_client=http_client
        )

    async def answer(self, ask: Ask, policy: RetryPolicy) -> Answer:
        """The whole answer. Raises ServiceError."""
        started = time.perf_counter()

        async def attempt(number: int) -> Answer:
            with self.raising_ours():
                response = await self.sdk.post(ask.route, cast_to=httpx2.Response, body=ask.body)
                _is_answer(response)
                whole = read_whole(_json(response))
            return Answer(
                text=whole.text,
                model=ask.model,
                provider=self.provider,
                usage=whole.usage,
                cost_picousd=self.cost_picousd(ask.model, whole.usage),
                latency_ms=(time.perf_counter() - started) * 1000,
                request_id=request_id(response.headers),
                finish_reason=whole.finish_reason,
                attempts=number,
                message=whole.message,
            )

        return await retrying(attempt, policy)

    async def open_stream(self, ask: Ask) -> AsyncStream[object]:
        """The chunks of an answer, as JSON, for as long as it is read. Raises ServiceError."""
        with self.raising_ours():
            stream = await self.sdk.post(
                ask.route, cast_to=object, body=ask.stream_body, stream=True, stream_cls=AsyncStream[object]
            )
            if stream.response.status_code != HTTPStatus.OK:
                await stream.close()
            _is_answer(stream.response)
            return stream

    async def control(self, method: str, url: str, body: Json | None = None) -> Any:
        """One call of a JSON API beside the OpenAI route. Raises ServiceError."""
        with self.raising_ours():
            if method == "GET":
                response = await self.sdk.get(url, cast_to=httpx2.Response)
            else:
                response = await self.sdk.post(url, cast_to=httpx2.Response, body=body)
            return _json(response)

    def cost_picousd(self, model: str, usage: Usage | None) -> int | None:
        """None where the price or the tokens are not known."""
        price = self._prices.get(model)
        return None if price is None or usage is None else price.cost_picousd(usage)

    @contextmanager
    def raising_ours(self, *, begun: bool = False) -> Iterator[None]:
        """What the SDK raises inside comes out as ServiceError. begun: part of the answer has been handed out."""
        try:
            yield
        except ServiceError as error:
            ours = StreamBroken(error.message, details=error.details) if begun else error
            raise placed(ours, self.endpoint) from None
        except openai.OpenAIError as error:
            raise from_sdk(error, self.endpoint, begun=begun) from error
        except httpx2.HTTPError as error:  # while a body was read
            kind = StreamBroken if begun else Unreachable
            raise placed(kind(f"the connection failed: {type(error).__name__}"), self.endpoint) from error

    async def close(self) -> None:
        """Closes every connection."""
        await self.sdk.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _is_answer(response: httpx2.Response) -> None:
    """Raises UpstreamFailed for a status that promises no answer, such as 202."""
    if response.status_code != HTTPStatus.OK:
        raise UpstreamFailed(f"the status of the answer is {response.status_code}, not 200")


def _json(response: httpx2.Response) -> Any:
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError):
        raise UpstreamFailed("the answer is not JSON") from None
