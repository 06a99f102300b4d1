"""An own endpoint and a hosted provider of one model, as scripted servers on real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.vllm_service.client.scripted import (
    DONE,
    Reply,
    Request,
    Scripted,
    answer,
    scripted,
    stream,
)
from vllm_service import TokenPrice
from vllm_service.catalog.model import Catalog, Offer, Provider, ProviderKind, PublicModel
from vllm_service.domain.pricing import SecondPrice
from vllm_service.resilience.retry_schedule import RetrySettings

AT_ONCE = RetrySettings(first_wait_seconds=0, jitter_seconds=0)
PRICE = TokenPrice.per_million("0.10", "0.10")


def chat(text: str) -> Reply:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return answer({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})


def pieces(*texts: str, then: Reply | None = None) -> Reply:
    """A streamed chat; `then` instead of its end."""
    chunks = [{"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]} for text in texts]
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    return stream(*chunks, then=then) if then is not None else stream(*chunks, end, DONE)


def says(name: str) -> Callable[[Request], Reply]:
    return lambda request: pieces(name) if request.body.get("stream") else chat(name)


def always(reply: Reply) -> Callable[[Request], Reply]:
    return lambda request: reply


@dataclass(frozen=True)
class Two:
    """An own endpoint and a hosted provider of one model."""

    own: Scripted
    hosted: Scripted
    catalog: Catalog


@asynccontextmanager
async def two(
    own: Callable[[Request], Reply] | None = None, hosted: Callable[[Request], Reply] | None = None
) -> AsyncIterator[Two]:
    async with scripted(own or says("own")) as one, scripted(hosted or says("hosted")) as other:
        providers = (
            Provider("own", ProviderKind.RUNPOD, one.url, "k", second_price=SecondPrice.per_second("0.00019")),
            Provider("hosted", ProviderKind.HOSTED, other.url, "k"),
        )
        model = PublicModel("m", (Offer("own", "org/m"), Offer("hosted", "m-8b", PRICE)))
        yield Two(one, other, Catalog({provider.name: provider for provider in providers}, {"m": model}))
