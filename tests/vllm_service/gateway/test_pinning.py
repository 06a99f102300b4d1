"""Conversations at a load balancer: the header that goes there, what is learned from answers, and what stays here."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.vllm_service.gateway.running import Running, catalog_of, running
from vllm_service.gateway.pinning import conversation_of
from vllm_service.gateway.request_body import read
from vllm_service.testing.provider import ReceivedRequest, ScriptedProvider, says
from vllm_service.testing.replies import Reply

HEADER = "x-runpod-worker-id"


class Balancer:
    """Answers in the name of one worker after the other; `asked` are the workers that requests asked for."""

    def __init__(self) -> None:
        self.asked: list[str | None] = []

    def __call__(self, request: ReceivedRequest) -> Reply:
        self.asked.append(request.headers.get(HEADER))
        head, *rest = says("Hi", "!")(request).actions
        assert isinstance(head, bytes)
        named = b"\r\n%b: w%d\r\n" % (HEADER.encode(), len(self.asked))
        return Reply((head.replace(b"\r\n", named, 1), *rest))


async def ask(gateway: Running, *texts: str, stream: bool = False, headers: dict[str, str] | None = None) -> Any:
    messages = [{"role": "assistant" if number % 2 else "user", "content": text} for number, text in enumerate(texts)]
    body = {"model": "small", "messages": messages, "stream": stream}
    answer = await gateway.http.post(f"{gateway.url}/chat/completions", json=body, headers=headers or {})
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.parametrize("stream", [False, True])
async def test_a_conversation_asks_for_the_worker_that_read_it_and_another_one_does_not(stream: bool) -> None:
    balancer = Balancer()
    async with (
        ScriptedProvider(balancer) as provider,
        running(catalog_of(provider.url, keeps_conversations=True)) as gateway,
    ):
        for texts in (["A"], ["A", "Hi!", "more"], ["B"], ["A", "Hi!", "again"]):
            await ask(gateway, *texts, stream=stream)
        assert balancer.asked == [None, "w1", None, "w2"]


async def test_the_header_comes_from_no_caller_and_goes_to_none() -> None:
    balancer = Balancer()
    async with (
        ScriptedProvider(balancer) as provider,
        running(catalog_of(provider.url, keeps_conversations=True)) as gateway,
    ):
        answer = await ask(gateway, "A", headers={HEADER: "strict-resume w9"})
        assert balancer.asked == [None]
        assert HEADER not in answer.headers


async def test_other_providers_get_no_header_whatever_they_answer() -> None:
    balancer = Balancer()
    async with ScriptedProvider(balancer) as provider, running(catalog_of(provider.url)) as gateway:
        await ask(gateway, "A")
        await ask(gateway, "A", "Hi!", "more")
        assert balancer.asked == [None, None]
        assert len(gateway.gateway.config.snapshot.pins) == 0


async def test_a_conversation_that_was_silent_for_the_idle_time_out_asks_for_none() -> None:
    balancer = Balancer()
    async with (
        ScriptedProvider(balancer) as provider,
        running(catalog_of(provider.url, keeps_conversations=True, idle_worker_seconds=0)) as gateway,
    ):
        await ask(gateway, "A")
        await ask(gateway, "A", "Hi!", "more")
        assert balancer.asked == [None, None]


def conversation(organisation: str = "acme", **body: Any) -> bytes | None:
    return conversation_of(organisation, read(json.dumps({"model": "m", **body}).encode()))


SYSTEM = {"role": "system", "content": "Be brief." * 1000}
FIRST = {"role": "user", "content": "A"}
SECOND = [{"role": "assistant", "content": "a"}, {"role": "user", "content": "B"}]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"messages": [SYSTEM, FIRST]}, {"messages": [SYSTEM, FIRST, *SECOND]}, True),
        ({"messages": [SYSTEM, FIRST]}, {"messages": [SYSTEM, {**FIRST, "content": "B"}]}, False),
        ({"messages": [FIRST]}, {"messages": [SYSTEM, FIRST]}, False),
        ({"messages": [FIRST]}, {"messages": [FIRST], "cache_salt": "x"}, False),
        ({"messages": [FIRST]}, {"messages": [FIRST], "prompt_cache_key": "x"}, False),
        ({"messages": [FIRST]}, {"messages": [FIRST], "organisation": "zeta"}, False),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "A"}]}]}, {"messages": [FIRST]}, False),
        ({"prompt": "x" * 300}, {"prompt": "x" * 300 + "y"}, True),
        ({"prompt": "x" * 300}, {"prompt": "z" + "x" * 300}, False),
        ({"input": [FIRST]}, {"input": [FIRST, *SECOND]}, True),
        ({"messages": [5]}, {"messages": [5, 6]}, False),
    ],
)
def test_a_conversation_is_its_organisation_and_its_first_messages(
    one: dict[str, Any], other: dict[str, Any], same: bool
) -> None:
    assert (conversation(**one) == conversation(**other)) is same
    assert len(conversation(**one) or b"") == 16


def test_a_request_without_a_prompt_is_no_conversation() -> None:
    assert conversation() is None
