"""/v1/responses and /v1/embeddings: a reply in the form of OpenAI's newer API, and vectors."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Mapping
from typing import Any

from runpod_emulator.errors import BadRequest
from runpod_emulator.hosted.answers import count_tokens, embedding
from runpod_emulator.hosted.chat import Event, sse
from runpod_emulator.hosted.reply import CREATED, Json, Reply
from runpod_emulator.hosted.settings import HostedModel


def response_document(reply: Reply) -> Json:
    """Returns a complete response."""
    return _response(reply, "completed")


def response_events(reply: Reply) -> Iterator[Event]:
    """Yields numbered events from `response.created` to `response.completed`. This API's streams have no [DONE]."""
    for sequence, (count, document) in enumerate(_documents(reply)):
        yield count, sse(document | {"sequence_number": sequence}, document["type"])


def embeddings_document(body: Mapping[str, Any], model: HostedModel) -> tuple[Json, int]:
    """Returns the document with the vectors, and the number of prompt tokens. Raises BadRequest."""
    given = body.get("input")
    # A list of integers is one text, given as tokens; any other list is several texts.
    inputs = given if isinstance(given, list) and not all(isinstance(part, int) for part in given) else [given]
    if given is None or not inputs:
        raise BadRequest("input: expected text, or a list of texts")
    texts = [text if isinstance(text, str) else " ".join(map(str, text or ())) for text in inputs]
    vectors = [embedding(text, body.get("dimensions") or model.embedding_dimensions) for text in texts]
    tokens = sum(count_tokens(text) for text in texts)
    encode = _base64 if body.get("encoding_format") == "base64" else list
    data = [{"object": "embedding", "index": i, "embedding": encode(vector)} for i, vector in enumerate(vectors)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "model": model.id, "data": data, "usage": usage}, tokens


def _documents(reply: Reply) -> Iterator[tuple[int, Json]]:
    (answer,) = reply.answers
    first = reply.reasoning_tokens
    total = reply.completion_tokens
    item = _item(reply, answer.text)
    position = {"item_id": item["id"], "output_index": 0}
    yield 0, {"type": "response.created", "response": _response(reply, "in_progress")}
    yield 0, {"type": "response.in_progress", "response": _response(reply, "in_progress")}
    empty = _item(reply, "") | {"status": "in_progress"} | ({"content": []} if answer.tool is None else {})
    yield first, {"type": "response.output_item.added", "output_index": 0, "item": empty}
    text = {} if answer.tool else {"content_index": 0}
    kind = "response.function_call_arguments" if answer.tool else "response.output_text"
    if answer.tool is None:
        yield first, {"type": "response.content_part.added", "part": _part("")} | position | text
    for count, piece in enumerate(answer.pieces, first + 1):
        logprobs: Json = {} if answer.tool else {"logprobs": []}
        yield count, {"type": f"{kind}.delta", "delta": piece} | position | text | logprobs
    if answer.tool is None:
        yield total, {"type": f"{kind}.done", "text": answer.text, "logprobs": []} | position | text
        yield total, {"type": "response.content_part.done", "part": _part(answer.text)} | position | text
    else:
        yield total, {"type": f"{kind}.done", "name": answer.tool, "arguments": answer.text} | position
    yield total, {"type": "response.output_item.done", "output_index": 0, "item": item}
    yield total, {"type": "response.completed", "response": _response(reply, "completed")}


def _response(reply: Reply, status: str) -> Json:
    (answer,) = reply.answers
    is_done = status == "completed"
    was_cut = is_done and answer.finish == "length"
    return {
        "id": reply.id,
        "object": "response",
        "created_at": CREATED,
        "status": "incomplete" if was_cut else status,
        "incomplete_details": {"reason": "max_output_tokens"} if was_cut else None,
        "error": None,
        "model": reply.model.id,
        "output": [_item(reply, answer.text)] if is_done else [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": _usage(reply) if is_done and reply.settings.usage_place != "nowhere" else None,
    }


def _usage(reply: Reply) -> Json:
    return {
        "input_tokens": reply.prompt_tokens,
        "input_tokens_details": {"cached_tokens": reply.cached_tokens},
        "output_tokens": reply.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": reply.reasoning_tokens},
        "total_tokens": reply.prompt_tokens + reply.completion_tokens,
    }


def _item(reply: Reply, text: str) -> Json:
    (answer,) = reply.answers
    if answer.tool is not None:
        call = {"call_id": f"call_{answer.tool}", "name": answer.tool, "arguments": text}
        return {"id": f"fc-{reply.id}", "type": "function_call", "status": "completed"} | call
    message = {"role": "assistant", "status": "completed", "content": [_part(text)]}
    return {"id": f"msg-{reply.id}", "type": "message"} | message


def _part(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
