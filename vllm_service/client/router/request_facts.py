"""What the router decides on, of a request of the client: read as the gateway reads it of the same JSON."""

from __future__ import annotations

import json
import math

from vllm_service.client.payload import Payload
from vllm_service.domain.requests import RequestFacts
from vllm_service.domain.token_estimates import estimated_prompt_tokens, longest_answer_tokens, prefix_of


def facts_of_chat(ask: Payload, strategy: str, *, stream: bool) -> RequestFacts:
    """Of an `Ask.chat`."""
    question, options = _json(ask.question["messages"]), ask.options
    body = b'{"messages":%b,%b' % (question, _json({"model": ask.model, **options})[1:])
    bound = options.get("max_completion_tokens") or options.get("max_tokens")
    return RequestFacts(
        model=ask.model,
        operation="chat.completions",
        prompt_tokens=estimated_prompt_tokens(body),
        max_tokens=longest_answer_tokens(_number(bound), _number(options.get("n"))),
        stream=stream,
        prefix=prefix_of(question),
        strategy=strategy,
    )


def _json(value: object) -> bytes:
    """For an estimate: to refuse what is no JSON is for those who send it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    return text.encode("utf-8", "surrogatepass")


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None
