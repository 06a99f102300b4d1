"""What the client makes of a provider's usage: the same counts as the gateway, and no answer is free."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_service.catalog.model import Catalog, Offer, Provider, ProviderKind, PublicModel
from vllm_service.client.results import Answer
from vllm_service.client.router.llm_router import LLMRouter
from vllm_service.domain.pricing import TokenPrice
from vllm_service.domain.usage import Usage
from vllm_service.testing import (
    DONE,
    ReceivedRequest,
    Reply,
    ScriptedProvider,
    chat_chunk,
    chat_document,
    chat_events,
    events,
    whole,
)

PRICE = TokenPrice.per_million("1", "2")
WORDS = ["word "] * 20


async def answered(usage: Any, *, stream: bool, max_tokens: int = 50) -> Answer:
    def script(request: ReceivedRequest) -> Reply:
        if request.is_stream:
            last = chat_chunk(None, choices=[], usage=usage)
            return events(*chat_events(*WORDS, usage=None)[:-1], last, DONE)
        return whole(chat_document("".join(WORDS), usage))

    async with ScriptedProvider(script) as provider:
        hosted = Provider("hosted", ProviderKind.HOSTED, provider.url)
        model = PublicModel("m", (Offer("hosted", "there", PRICE),))
        async with LLMRouter(providers=Catalog({"hosted": hosted}, {"m": model})) as router:
            if not stream:
                return await router.complete("Hi", max_tokens=max_tokens)
            texts = router.stream("Hi", max_tokens=max_tokens)
            async for _ in texts:
                pass
            return texts.answer


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("usage", [{}, None, [], {"prompt_tokens": 0, "completion_tokens": 0}], ids=str)
async def test_usage_that_says_nothing_is_unknown_and_not_free(usage: Any, stream: bool) -> None:
    answer = await answered(usage, stream=stream)
    assert (answer.usage, answer.cost_picousd, answer.cost_is_estimate) == (None, None, False)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        ({"prompt_tokens": 11.0, "completion_tokens": "20"}, Usage(11, 20)),
        ({"prompt_tokens": 11, "completion_tokens": 0, "total_tokens": 31}, Usage(11, 20)),
        ({"prompt_tokens": 11, "completion_tokens": 51}, Usage(11, 50, estimated=True, implausible=True)),
        ({"prompt_tokens": 11, "completion_tokens": 10**30}, Usage(11, 20, estimated=True, implausible=True)),
    ],
    ids=str,
)
async def test_each_count_is_read_on_its_own_and_bounded(usage: Any, counted: Usage, stream: bool) -> None:
    answer = await answered(usage, stream=stream)
    assert answer.usage is not None
    if usage["completion_tokens"] != 10**30:
        assert answer.usage == counted
    assert (answer.usage.implausible, answer.usage.prompt_tokens) == (counted.implausible, 11)
    assert 20 <= answer.usage.completion_tokens <= 50
    assert answer.cost_picousd == PRICE.cost_picousd(answer.usage)
    assert answer.cost_is_estimate is counted.estimated


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_total_alone_is_divided(stream: bool) -> None:
    answer = await answered({"total_tokens": 60}, stream=stream)
    assert answer.usage is not None
    assert (answer.usage.total_tokens, answer.usage.estimated) == (60, True)
    assert answer.usage.completion_tokens >= 20
