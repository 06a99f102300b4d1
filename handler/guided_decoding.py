"""Translates the parameters of structured answers that older vLLM releases had into those of today.

vLLM ignores fields that it does not have: a caller of `guided_json` would get an answer that follows no schema, and no
word about it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Any

from handler.errors import InvalidInput

Json = dict[str, Any]

# The former field of a request, and the member of `structured_outputs` that does the same.
CONSTRAINTS = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "guided_json_object": "json_object",
    "guided_whitespace_pattern": "whitespace_pattern",
}
BACKEND = "guided_decoding_backend"
FORMER_FIELDS = frozenset({*CONSTRAINTS, BACKEND})
FIELD = "structured_outputs"
# What every one of these fields begins with, in a body that has not been parsed.
MARK = b'"guided_'
# What OpenAI's Python client takes apart before it sends a body. vLLM ignores it.
EXTRA_BODY = "extra_body"
#: A body without any of these fields is translated to itself.
MAY_CONCERN = FORMER_FIELDS | {EXTRA_BODY}
# With one of these, a route generates text.
LENGTHS = frozenset({"max_tokens", "max_completion_tokens", "max_output_tokens"})


def concerns(body: Json) -> bool:
    """Returns whether the body has former fields, or means to have them."""
    extra = body.get(EXTRA_BODY)
    return not FORMER_FIELDS.isdisjoint(body) or (isinstance(extra, dict) and not FORMER_FIELDS.isdisjoint(extra))


def translated(body: Json, name: str = "", fields: Collection[str] = ()) -> Json:
    """Returns the body with today's field in the place of the former ones; a body without them is returned as it is.

    Raises InvalidInput where that is impossible. `name` is what the body is called there; `fields` are those of the
    engine's route, nothing where they are unknown.
    """
    if not concerns(body):
        return body
    start = f"{name}." if name else ""
    if FORMER_FIELDS.isdisjoint(body):
        raise InvalidInput(
            f"{start}{EXTRA_BODY}: only OpenAI's Python client has it; in JSON its fields stand beside the others",
            param=f"{start}{EXTRA_BODY}",
        )
    _check_route(body, start, fields)
    if body.get(BACKEND) not in (None, "auto"):
        raise InvalidInput(
            f"{start}{BACKEND}: a request cannot choose it any more; leave it out, or set STRUCTURED_OUTPUTS_CONFIG at "
            'the worker, such as {"backend": "xgrammar"}',
            param=f"{start}{BACKEND}",
        )
    kept = {field: value for field, value in body.items() if field not in FORMER_FIELDS}
    asked = {CONSTRAINTS[field]: body[field] for field in _asked(body)}
    if not asked:
        return kept
    if kept.get(FIELD) is not None:
        former = _asked(body)[0]
        raise InvalidInput(f"{start}{former}: goes not with {FIELD}; use that alone", param=f"{start}{former}")
    return kept | {FIELD: asked}


def _asked(body: Json) -> list[str]:
    """Returns the former fields that constrain the answer. `guided_json_object: false` asks for nothing."""
    return [
        field
        for field in CONSTRAINTS
        if body.get(field) is not None and not (field == "guided_json_object" and body[field] is False)
    ]


def _check_route(body: Json, start: str, fields: Collection[str]) -> None:
    """Raises InvalidInput where the route generates text that cannot be constrained."""
    asked = _asked(body)
    if asked and FIELD not in fields and not LENGTHS.isdisjoint(fields):
        raise InvalidInput(
            f"{start}{asked[0]}: this route cannot constrain its answers; use /v1/chat/completions",
            param=f"{start}{asked[0]}",
        )


def translated_text(body: bytes, fields: Callable[[], Collection[str]] = tuple) -> bytes:
    """Returns a body of JSON with today's field. Only a body that may have a former one is parsed."""
    if MARK not in body:
        return body
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return body  # vLLM says what is wrong
    if not isinstance(document, dict):
        return body
    changed = translated(document, fields=fields())
    return body if changed is document else json.dumps(changed, ensure_ascii=False).encode("utf-8", "surrogatepass")
