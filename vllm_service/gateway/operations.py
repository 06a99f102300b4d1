"""The operations of the hot path: their paths here and at providers, and how their streams end."""

from __future__ import annotations

import re
from dataclasses import dataclass

# An event's own line: within JSON text a line break is always escaped.
_DONE = re.compile(rb"(?:^|\n)data: ?\[DONE\]")
_RESPONSE_END = re.compile(rb"(?:^|\n)(?:event: ?response\.(?:completed|incomplete|failed)|data: ?\[DONE\])")


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """name: as in the ledger. path: after a provider's base URL. last_event: found in the piece that ends a stream.

    end_hint: bytes without which last_event need not be looked for.
    """

    name: str
    path: str
    has_stream_options: bool
    end_hint: bytes
    last_event: re.Pattern[bytes]
    has_completion: bool = True


CHAT = Operation("chat.completions", "/chat/completions", True, b"[DONE]", _DONE)
COMPLETIONS = Operation("completions", "/completions", True, b"[DONE]", _DONE)
RESPONSES = Operation("responses", "/responses", False, b"", _RESPONSE_END)
EMBEDDINGS = Operation("embeddings", "/embeddings", False, b"[DONE]", _DONE, has_completion=False)

BY_PATH = {
    prefix + operation.path.encode(): operation
    for operation in (CHAT, COMPLETIONS, RESPONSES, EMBEDDINGS)
    for prefix in (b"/v1", b"")
}
