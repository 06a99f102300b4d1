"""What the backend serves: /generate, /stream, /chat/stream and /health."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from examples.fastapi_backend.events import chunk_event, events, text_event
from vllm_service import RunPodVLLMService

router = APIRouter()


class Prompt(BaseModel):
    """A prompt, sent to the model as it is."""

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
    """The text, and who gave it."""

    result: str
    provider: str


class Health(BaseModel):
    """The endpoint's jobs and workers, counted."""

    status: Literal["healthy"]
    jobs: dict[str, int]
    workers: dict[str, int]


def service_of(request: Request) -> RunPodVLLMService:
    """The application's one client. LLMRouter has the same calls, if hosted providers are to help out."""
    service: RunPodVLLMService = request.app.state.service
    return service


Service = Annotated[RunPodVLLMService, Depends(service_of)]


@router.post("/generate")
async def generate(asked: Prompt, service: Service) -> Generated:
    """The whole text."""
    answer = await service.complete(asked.prompt, max_tokens=asked.max_tokens, temperature=asked.temperature)
    return Generated(result=answer.text, provider=answer.provider)


@router.post("/stream")
async def stream(asked: Prompt, service: Service) -> StreamingResponse:
    """The text as server-sent events."""
    pieces = service.stream(asked.prompt, max_tokens=asked.max_tokens, temperature=asked.temperature)
    return StreamingResponse(await events(pieces, text_event), media_type="text/event-stream")


@router.post("/chat/stream")
async def chat_stream(asked: Conversation, service: Service) -> StreamingResponse:
    """The answer as server-sent events of `{"chunk": text}`."""
    messages = [message.model_dump() for message in asked.messages]
    pieces = service.stream_chat(messages, max_tokens=asked.max_tokens, temperature=asked.temperature)
    return StreamingResponse(await events(pieces, chunk_event), media_type="text/event-stream")


@router.get("/health")
async def health(service: Service) -> Health:
    """Whether the endpoint can be reached; looking wakes no worker."""
    seen = await service.health()
    return Health(status="healthy", jobs=dict(seen.jobs), workers=dict(seen.workers))
