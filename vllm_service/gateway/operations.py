"""The operations of OpenAI's API that the gateway passes on: their paths, and how their streams end."""

from __future__ import annotations

import re
from dataclasses import dataclass

# These match only at the start of a line. JSON text escapes line breaks, so an answer's own text cannot match.
_DONE = re.compile(rb"(?:^|\n)data: ?\[DONE\]")
_RESPONSE_END = re.compile(rb"(?:^|\n)(?:event: ?response\.(?:completed|incomplete|failed)|data: ?\[DONE\])")


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """One operation of the API."""

    #: The name in the ledger.
    name: str
    #: The path behind a provider's base URL.
    path: str
    #: Whether a stream carries usage only if `stream_options` requests it.
    has_stream_options: bool
    #: Bytes that `last_event` cannot match without; searching for them is cheaper. Empty: there are none.
    end_hint: bytes
    #: Matches the event that ends a complete stream.
    last_event: re.Pattern[bytes]
    #: Whether the answer holds tokens of its own; embeddings do not.
    has_completion: bool = True
    #: The members of a body that bound the length of each answer.
    bounds: tuple[str, ...] = ()
    #: Whether one request may have several answers: by a list of prompts, `n` or `best_of`.
    has_choices: bool = False


CHAT = Operation(
    "chat.completions",
    "/chat/completions",
    True,
    b"[DONE]",
    _DONE,
    bounds=("max_tokens", "max_completion_tokens"),
    has_choices=True,
)
COMPLETIONS = Operation("completions", "/completions", True, b"[DONE]", _DONE, bounds=("max_tokens",), has_choices=True)
RESPONSES = Operation("responses", "/responses", False, b"", _RESPONSE_END, bounds=("max_output_tokens",))
EMBEDDINGS = Operation("embeddings", "/embeddings", False, b"[DONE]", _DONE, has_completion=False)

#: The operations by the paths of the gateway's own API, with and without /v1.
BY_PATH = {
    prefix + operation.path.encode(): operation
    for operation in (CHAT, COMPLETIONS, RESPONSES, EMBEDDINGS)
    for prefix in (b"/v1", b"")
}
