"""A stream of texts as server-sent events. What fails before the first text is an HTTP error; later, an error event."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from vllm_service import ServiceError, TextStream

DONE = "data: [DONE]\n\n"


async def events(pieces: TextStream, event_of: Callable[[str], str]) -> AsyncGenerator[str]:
    """The events of all texts, the first text being there already. Raises ServiceError if that did not come."""
    first = await anext(pieces, "")

    async def rest() -> AsyncGenerator[str]:
        async with aclosing(pieces):  # a caller who leaves ends the generation
            try:
                yield event_of(first)
                async for text in pieces:
                    yield event_of(text)
            except ServiceError as error:
                yield f"event: error\ndata: {json.dumps(error.to_json(error.request_id))}\n\n"
                return
            yield DONE

    return rest()


def text_event(text: str) -> str:
    """`data: TEXT`, with one `data:` for each of its lines."""
    return "".join(f"data: {line}\n" for line in text.split("\n")) + "\n"


def chunk_event(text: str) -> str:
    """`data: {"chunk": TEXT}`."""
    return f"data: {json.dumps({'chunk': text})}\n\n"
