"""The backend's routes: /generate, /stream, /chat/stream and /health."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from examples.fastapi_backend.events import chunk_event, events, text_event
from vllm_service import RunPodVLLMService

router = APIRouter()


class Prompt(BaseModel):
    """A prompt, which is sent to the model unchanged."""

    prompt: Annotated[str, Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] = 500
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7


class Message(BaseModel):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Conversation(BaseModel):
    """A conversation, to which the model's chat template is applied."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] = 500
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7


class Generated(BaseModel):
    """The text, and the provider that generated it."""

    result: str
    provider: str


class Health(BaseModel):
    """The numbers of the endpoint's jobs and workers."""

    status: Literal["healthy"]
    jobs: dict[str, int]
    workers: dict[str, int]


def service_of(request: Request) -> RunPodVLLMService:
    """Returns the application's one client. LLMRouter has the same calls, and uses hosted providers too."""
    service: RunPodVLLMService = request.app.state.service
    return service


Service = Annotated[RunPodVLLMService, Depends(service_of)]


@router.post("/generate")
async def generate(body: Prompt, service: Service) -> Generated:
    """Returns the whole text."""
    answer = await service.complete(body.prompt, max_tokens=body.max_tokens, temperature=body.temperature)
    return Generated(result=answer.text, provider=answer.provider)


@router.post("/stream")
async def stream(body: Prompt, service: Service) -> StreamingResponse:
    """Returns the text as server-sent events."""
    pieces = service.stream(body.prompt, max_tokens=body.max_tokens, temperature=body.temperature)
    return StreamingResponse(await events(pieces, text_event), media_type="text/event-stream")


@router.post("/chat/stream")
async def chat_stream(body: Conversation, service: Service) -> StreamingResponse:
    """Returns the answer as server-sent events of `{"chunk": text}`."""
    messages = [message.model_dump() for message in body.messages]
    pieces = service.stream_chat(messages, max_tokens=body.max_tokens, temperature=body.temperature)
    return StreamingResponse(await events(pieces, chunk_event), media_type="text/event-stream")


@router.get("/health")
async def health(service: Service) -> Health:
    """Returns the endpoint's health, or an error if it cannot be reached. The request wakes no worker."""
    endpoint = await service.health()
    return Health(status="healthy", jobs=dict(endpoint.jobs), workers=dict(endpoint.workers))
