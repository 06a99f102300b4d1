"""A context that is too short: one error of the client, whichever way the server words it."""

from __future__ import annotations

import pytest

from vllm_service import RunPodVLLMService
from vllm_service.client.settings import RetryPolicy
from vllm_service.errors import ContextTooLong
from vllm_service.testing import Reply, ScriptedProvider, chat_chunk, events, refused, whole

NAMED = {"error": "9000 tokens", "code": "context_length_exceeded"}
SAID = {"error": {"message": "This model's maximum context length is 2048 tokens.", "type": "BadRequestError"}}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(refused(400, "9000 tokens", code="context_length_exceeded"), id="400 with OpenAI's code"),
        pytest.param(refused(413, "9000 tokens", code="context_length_exceeded"), id="413 with OpenAI's code"),
        pytest.param(whole(SAID, 400), id="400 in vLLM's words"),
        pytest.param(whole(SAID), id="200 in vLLM's words"),
        pytest.param(whole(NAMED), id="200 with the code beside the text"),
    ],
)
async def test_a_context_that_is_too_short_is_one_error(reply: Reply, stream: bool) -> None:
    async with (
        ScriptedProvider(reply) as provider,
        RunPodVLLMService(
            base_url=provider.url, api_key="k", default_model="m", retry=RetryPolicy(attempts=1)
        ) as service,
    ):
        asked = anext(service.stream("Hi")) if stream else service.complete("Hi")
        with pytest.raises(ContextTooLong) as raised:
            await asked
    assert (raised.value.status, raised.value.code) == (400, "context_length_exceeded")


async def test_an_empty_finish_reason_of_a_delta_is_none() -> None:
    reply = events(chat_chunk("Hel", ""), chat_chunk("lo", "stop"))
    async with (
        ScriptedProvider(reply) as provider,
        RunPodVLLMService(base_url=provider.url, api_key="k", default_model="m") as service,
    ):
        messages = [{"role": "user", "content": "Hi"}]
        reasons = [delta.finish_reason async for delta in service.stream_chat(messages).deltas()]
    assert reasons == [None, "stop"]
