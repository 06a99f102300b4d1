"""Builds the published OpenAPI document: FastAPI's routes, and the four POST endpoints that bypass FastAPI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from vllm_service.api.authentication import SCHEME_NAME
from vllm_service.api.openapi_schemas import SCHEMAS
from vllm_service.version import __version__

Document = dict[str, Any]
_ERROR_SCHEMA = {"$ref": "#/components/schemas/ErrorAnswer"}
_REQUEST_ID = {"x-request-id": {"description": "For the log and for support", "schema": {"type": "string"}}}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait", "schema": {"type": "string"}}}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A POST endpoint that bypasses FastAPI."""

    path: str
    operation: str
    summary: str
    #: The request's schema by its name in openapi_schemas.
    request: str
    #: The answer's schema by its name in openapi_schemas.
    answer: str
    example: dict[str, Any]
    streams: bool = True


ENDPOINTS = (
    Endpoint(
        "/v1/chat/completions",
        "chat_completions",
        "Answer a conversation",
        "ChatCompletionRequest",
        "ChatCompletion",
        {"model": "demo", "messages": [{"role": "user", "content": "What is the capital of France?"}]},
    ),
    Endpoint(
        "/v1/completions",
        "completions",
        "Continue a text",
        "CompletionRequest",
        "Completion",
        {"model": "demo", "prompt": "The capital of France is", "max_tokens": 8},
    ),
    Endpoint(
        "/v1/responses",
        "responses",
        "Answer an input",
        "ResponseRequest",
        "Response",
        {"model": "demo", "input": "What is the capital of France?"},
    ),
    Endpoint(
        "/v1/embeddings",
        "embeddings",
        "Turn texts into vectors",
        "EmbeddingRequest",
        "EmbeddingList",
        {"model": "demo-embeddings", "input": ["first text", "second text"]},
        streams=False,
    ),
)


def publish(app: FastAPI) -> None:
    """Makes `/openapi.json` the whole document, built on first use."""

    def document() -> Document:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # FastAPI's documented way


def _document(app: FastAPI) -> Document:
    document = get_openapi(
        title="vllm-service gateway",
        version=__version__,
        summary="One OpenAI-compatible address in front of your own endpoint and hosted providers.",
        routes=app.routes,
    )
    for operations in document["paths"].values():
        for operation in operations.values():
            _complete(operation)
    schemas = document["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas.update(SCHEMAS)
    for endpoint in ENDPOINTS:
        document["paths"][endpoint.path] = {"post": _operation(endpoint)}
    return document


def _complete(operation: Document) -> None:
    """Replaces FastAPI's 422 by the gateway's own error, and adds the request id to every answer."""
    answers = operation["responses"]
    if answers.pop("422", None):  # FastAPI adds it by itself; errors.py answers 400 instead
        answers["400"] = _error("A parameter is wrong")
    for answer in answers.values():
        answer.setdefault("headers", {}).update(_REQUEST_ID)


def _operation(endpoint: Endpoint) -> Document:
    content: Document = {"application/json": {"schema": {"$ref": f"#/components/schemas/{endpoint.answer}"}}}
    if endpoint.streams:
        # The schema of one event, as tools expect it; the JSON in its data is OpenAI's chunk.
        event = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
        content["text/event-stream"] = {"schema": event}
    request = {"schema": {"$ref": f"#/components/schemas/{endpoint.request}"}, "example": endpoint.example}
    return {
        "tags": ["openai"],
        "operationId": endpoint.operation,
        "summary": endpoint.summary,
        "security": [{SCHEME_NAME: []}],
        "requestBody": {"required": True, "content": {"application/json": request}},
        "responses": {
            "200": {"description": "The answer; a stream if asked for", "content": content, "headers": _REQUEST_ID},
            "401": _error("No key, or an unknown one"),
            "404": _error("No such model"),
            "413": _error("The body or the context is too long"),
            "429": {**_error("A limit is used up"), "headers": _REQUEST_ID | _RETRY_AFTER},
            "4XX": _error("The request cannot be served as it is"),
            "502": _error("The provider broke off"),
            "503": _error("No provider can serve the model now"),
            "504": _error("The provider did not answer in time"),
            "5XX": _error("Another error of the provider"),
        },
    }


def _error(description: str) -> Document:
    return {
        "description": description,
        "content": {"application/json": {"schema": _ERROR_SCHEMA}},
        "headers": dict(_REQUEST_ID),
    }
