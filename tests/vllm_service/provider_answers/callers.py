"""Three callers of the same provider: the gateway's, the client's router, and the official SDK without either."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import openai
from openai import AsyncOpenAI

from tests.vllm_service.gateway.running import QUICK, SECRET, Running, running
from tests.vllm_service.provider_answers.grammar import CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, ProviderAnswer
from tests.vllm_service.resilience.doors import MODEL, PATIENT, Setting, catalog_of, policy_of
from vllm_service import LLMRouter, RunPodVLLMService, ServiceError
from vllm_service.client.settings import RetryPolicy
from vllm_service.domain.answers import Form
from vllm_service.domain.requests import Outcome
from vllm_service.routing.from_catalog import make_router
from vllm_service.testing import ReceivedRequest, Reply, ScriptedProvider, events, whole

#: The text of the provider that answers when the first has failed.
ELSEWHERE = "elsewhere"
MESSAGES: Any = [{"role": "user", "content": "Hi"}]
PATHS = {CHAT: "chat/completions", COMPLETIONS: "completions", RESPONSES: "responses", EMBEDDINGS: "embeddings"}


@dataclass(frozen=True)
class Got:
    """What a caller got: see grammar.Expected. code: of the error."""

    kind: str
    text: str = ""
    code: str | None = None


def got(text: str, error_code: str | None, provider: str | None) -> Got:
    if error_code is None:
        return Got("elsewhere") if provider == "provider-2" else Got("answered", text)
    return Got("broken", text, error_code) if text else Got("refused", "", error_code)


@dataclass
class Callers:
    """The callers, and the provider whose answer they get."""

    gateway: Running
    router: LLMRouter
    #: For text completions, which the router has none of. It has one provider.
    service: RunPodVLLMService
    first: ScriptedProvider
    sdk: AsyncOpenAI
    #: The requests to the gateway so far.
    requests: int = 0

    async def gateways(self, answer: ProviderAnswer) -> Got:
        """What the gateway makes of the answer, and that it is booked so."""
        number, self.requests = self.requests, self.requests + 1
        body = {"model": MODEL, "messages": MESSAGES, "input": "Hi", "prompt": "Hi", "stream": answer.is_streamed}
        headers = {"authorization": f"Bearer {SECRET}", "x-annotate": "off"}
        response = await self.gateway.http.post(f"{self.gateway.url}/{PATHS[answer.form]}", json=body, headers=headers)
        row = await self.gateway.books.row(number)
        text, code = _read(answer, response.status_code, response.content)
        assert (row.outcome is Outcome.COMPLETED) is (code is None)
        assert row.error_code == code
        return got(text, code, row.provider)

    async def clients(self, answer: ProviderAnswer) -> Got:
        """What LLMRouter makes of the answer, or of a text completion the client of one endpoint."""
        texts: list[str] = []
        is_chat = answer.form is CHAT
        try:
            if answer.is_streamed:
                stream = self.router.stream_chat(MESSAGES) if is_chat else self.service.stream("Hi")
                async with stream:
                    async for text in stream:
                        texts.append(text)
                provider = stream.answer.provider
            else:
                whole_answer = await (self.router.chat(MESSAGES) if is_chat else self.service.complete("Hi"))
                texts, provider = [whole_answer.text], whole_answer.provider
        except ServiceError as error:
            return got("".join(texts), error.code, error.endpoint)
        return got("".join(texts), None, provider)

    async def sdks(self, answer: ProviderAnswer) -> Got:
        """What the SDK makes of the answer. An object without the members of an answer is a refusal."""
        texts: list[str] = []
        try:
            made = await _asked(self.sdk, answer)
            if answer.is_streamed:
                async for chunk in made:
                    texts += _texts_of(answer.form, chunk)
            else:
                texts = [_text_of(answer.form, made)]
        except (openai.OpenAIError, ValueError, TypeError, AttributeError, IndexError):
            return got("".join(texts), "SDK", None)
        return got("".join(texts), None, None)


async def _asked(sdk: AsyncOpenAI, answer: ProviderAnswer) -> Any:
    if answer.form is CHAT:
        return await sdk.chat.completions.create(model=MODEL, messages=MESSAGES, stream=answer.is_streamed)
    if answer.form is COMPLETIONS:
        return await sdk.completions.create(model=MODEL, prompt="Hi", stream=answer.is_streamed)
    if answer.form is RESPONSES:
        return await sdk.responses.create(model=MODEL, input="Hi", stream=answer.is_streamed)
    return await sdk.embeddings.create(model=MODEL, input="Hi", encoding_format="float")


def _texts_of(form: Form, chunk: Any) -> list[str]:
    if form is RESPONSES:
        return [chunk.delta] if chunk.type == "response.output_text.delta" else []
    return [choice.delta.content or "" if form is CHAT else choice.text for choice in chunk.choices]


def _text_of(form: Form, made: Any) -> str:
    if form is EMBEDDINGS:
        assert made.data[0].embedding
        return ""
    text: object = made.output_text if form is RESPONSES else made.choices[0]
    if form is CHAT:
        text = made.choices[0].message.content
    elif form is COMPLETIONS:
        text = made.choices[0].text
    if not isinstance(text, str):
        raise TypeError
    return text


def _read(answer: ProviderAnswer, status: int, content: bytes) -> tuple[str, str | None]:
    """Returns the text and the error's code of what the gateway sent. Its own bytes are UTF-8 and JSON in any case."""
    if status != 200:
        return "", json.loads(content)["error"]["code"]
    if not answer.is_streamed:
        return _text_in(answer.form, json.loads(content.decode("utf-8-sig", "replace"))), None
    lines = content.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    data = [line.removeprefix("data:").strip(" ") for line in lines if line.startswith("data:")]
    documents = [json.loads(text) for text in data if text != "[DONE]"]
    codes = [document["error"]["code"] for document in documents if document.get("error")]
    if answer.form is not RESPONSES:
        assert bool(codes) is not ("[DONE]" in data), "a stream ends with [DONE] or with an error"
    return "".join(_delta_in(answer.form, document) for document in documents), codes[-1] if codes else None


def _text_in(form: Form, document: Any) -> str:
    if form is RESPONSES:
        return str(document["output"][0]["content"][0]["text"])
    if form is EMBEDDINGS:
        return ""
    choice = document["choices"][0]
    return str(choice["message"]["content"] if form is CHAT else choice["text"])


def _delta_in(form: Form, document: Any) -> str:
    if form is RESPONSES:
        return str(document["delta"]) if document.get("type") == "response.output_text.delta" else ""
    parts = [
        choice["delta"].get("content") if form is CHAT else choice["text"] for choice in document.get("choices", ())
    ]
    return "".join(part or "" for part in parts)


def second(request: ReceivedRequest) -> Reply:
    """The other provider: sound for every operation."""
    if request.target.endswith("/embeddings"):
        return whole({"data": [{"embedding": [1.0]}]})
    if request.target.endswith("/responses"):
        output = [{"type": "message", "content": [{"type": "output_text", "text": ELSEWHERE}]}]
        return whole({"status": "completed", "output": output})
    is_chat = request.target.endswith("/chat/completions")
    content = {"delta": {"content": ELSEWHERE}} if is_chat else {"text": ELSEWHERE}
    if request.is_stream:
        return events({"choices": [{"index": 0, **content, "finish_reason": "stop"}]}, b"data: [DONE]\n\n")
    held = {"message": {"content": ELSEWHERE}} if is_chat else {"text": ELSEWHERE}
    return whole({"choices": [{"index": 0, **held, "finish_reason": "stop"}]})


@asynccontextmanager
async def callers() -> AsyncIterator[Callers]:
    """The callers before two providers: the first one's script is set for each answer, the second is sound."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(ScriptedProvider(second))
        other = await stack.enter_async_context(ScriptedProvider(second))
        setting = Setting(breakers=PATIENT)
        catalog = catalog_of([first.url, other.url], setting)
        gateway = await stack.enter_async_context(
            running(catalog, policy=policy_of(setting), router=make_router(catalog, "QUALITY"))
        )
        router = await stack.enter_async_context(
            LLMRouter(
                "QUALITY",
                catalog,
                router=make_router(catalog, "QUALITY"),
                breakers=policy_of(setting).breakers,
                retries=QUICK,
            )
        )
        service = await stack.enter_async_context(
            RunPodVLLMService(base_url=first.url, api_key="k", default_model=MODEL, retry=RetryPolicy(attempts=1))
        )
        sdk = await stack.enter_async_context(AsyncOpenAI(base_url=first.url, api_key="k", max_retries=0))
        yield Callers(gateway, router, service, first, sdk)
