"""Streams of texts as server-sent events. An error before the first text is an HTTP error, a later one an event."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from vllm_service import ServiceError, TextStream

DONE = "data: [DONE]\n\n"


async def events(pieces: TextStream, event_of: Callable[[str], str]) -> AsyncGenerator[str]:
    """Returns the events of all texts once the first text has come. Raises ServiceError if it does not come."""
    # Before the response begins its status can still be the error's.
    first = await anext(pieces, "")

    async def rest() -> AsyncGenerator[str]:
        async with aclosing(pieces):  # a caller who disconnects ends the generation
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
    """Returns `data: TEXT`, with one `data:` for each line of the text."""
    return "".join(f"data: {line}\n" for line in text.split("\n")) + "\n"


def chunk_event(text: str) -> str:
    """Returns `data: {"chunk": TEXT}`."""
    return f"data: {json.dumps({'chunk': text})}\n\n"
