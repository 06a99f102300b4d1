"""Bounds what one request may make the engine do besides generating text, so that the others do not wait for it.

A constraint on the answer (a list of choices, a grammar, a schema) is compiled before the first token. 100,000 choices
took vLLM more than a minute; 100,000 sequences of one request of 6 kB blocked it for 11 seconds (docs/benchmarks.md).
What is measured in a body is its form: prompts of any length are left to the model's context.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from handler.errors import InvalidInput

Json = dict[str, Any]

# Fields whose value is compiled, whole or in parts.
CONSTRAINTS = ("structured_outputs", "response_format", "text", "output_config", "output_format")
# So much more than a schema's the text of these takes to compile, by measurement.
DENSE = frozenset({"choice", "regex", "grammar"})
DENSE_WEIGHT = 4
# Tools are compiled only where the model must call one. Else they are a part of the prompt.
UNFORCED_TOOLS_SHARE = 4
NOT_FORCED = (None, "auto", "none")
# Batches: an entry of the first makes an answer, which takes so much longer than a vector or a score of the others.
PROMPT = "prompt"
POOLED = ("input", "documents", "queries", "text_1", "text_2", "data_1", "data_2")
POOLED_FACTOR = 4
# A body below the smallest size that could pass a bound is parsed only for these, or for names that are escaped.
MULTIPLIER, ESCAPED = b'"n"', b"\\u00"
# Longer than any list that a body of this size may hold, an entry and a comma each.
BYTES_PER_ENTRY = 2


@dataclass(frozen=True)
class RequestLimits:
    """The bounds of one request."""

    #: Of the JSON text that is compiled into a grammar. Choices, regular expressions and grammars count four times.
    constraint_bytes: int = 65_536
    #: Entries of one list or object in the body, such as messages, stop words or biases.
    list_items: int = 16_384
    #: Prompts times `n`. Of the entries of a batch for embeddings or scores four times as many.
    sequences: int = 512

    def check(self, body: bytes | None) -> None:
        """Raises InvalidInput where a JSON body is beyond a bound. What is no JSON object is left to the engine."""
        if body is None or not self._may_concern(body):
            return
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            return
        if isinstance(document, dict):
            self._check_constraints(document)
            self._check_sequences(document)
            self._check_lists(document)

    def _may_concern(self, body: bytes) -> bool:
        smallest = min(self.constraint_bytes // DENSE_WEIGHT, BYTES_PER_ENTRY * min(self.list_items, self.sequences))
        return len(body) > smallest or MULTIPLIER in body or ESCAPED in body

    def _check_constraints(self, body: Json) -> None:
        for field in CONSTRAINTS:
            self._check_size(field, _compiled_bytes(body.get(field)), self.constraint_bytes)
        share = UNFORCED_TOOLS_SHARE if body.get("tool_choice") in NOT_FORCED else 1
        self._check_size("tools", _compiled_bytes(body.get("tools")), share * self.constraint_bytes)

    def _check_size(self, field: str, size: int, most: int) -> None:
        if size > most:
            raise InvalidInput(
                f"{field}: counts as {size} bytes to compile, more than {most}. Choices, regular expressions and "
                "grammars count four times. Send less, or raise MAX_CONSTRAINT_BYTES at the worker",
                param=field,
            )

    def _check_sequences(self, body: Json) -> None:
        times = _whole_number(body.get("n"))
        self._check_batch(PROMPT, _entries(body.get(PROMPT)) * times, self.sequences)
        for field in POOLED:
            self._check_batch(field, _entries(body.get(field)), POOLED_FACTOR * self.sequences)

    def _check_batch(self, field: str, sequences: int, most: int) -> None:
        if sequences > most:
            raise InvalidInput(
                f"{field}: {sequences} sequences in one request; at most {most} are taken. Send several requests, or "
                "raise MAX_SEQUENCES at the worker",
                param=field,
            )

    def _check_lists(self, body: Json) -> None:
        for field, size in _lists(body):
            if size > self.list_items:
                raise InvalidInput(
                    f"{field}: {size} entries; at most {self.list_items} are taken (MAX_LIST_ITEMS at the worker)",
                    param=field,
                )


#: The bounds where nothing is configured.
DEFAULT = RequestLimits()


def _whole_number(n: object) -> int:
    """Returns `n` as vLLM reads it, also from text; 1 for whatever is none."""
    try:
        return max(1, int(float(n))) if isinstance(n, int | float | str) else 1
    except (ValueError, OverflowError):
        return 1


def _compiled_bytes(value: object) -> int:
    """Returns the bytes of a constraint as JSON, with the weight of what takes longer."""
    if not isinstance(value, dict | list):
        return 0
    size = len(json.dumps(value))
    dense = [value[name] for name in DENSE if value.get(name)] if isinstance(value, dict) else []
    return size + (DENSE_WEIGHT - 1) * sum(len(json.dumps(part)) for part in dense)


def _entries(batch: object) -> int:
    """Returns how many prompts there are. A list of numbers is one prompt, in tokens."""
    if not isinstance(batch, list):
        return 1
    return 1 if not batch or isinstance(batch[0], int) else len(batch)


def _lists(body: Json) -> Iterator[tuple[str, int]]:
    """Yields every list and object of the body with its size, and the parts of messages together."""
    for field, value in body.items():
        if field not in (PROMPT, *POOLED) and isinstance(value, list | dict):
            yield field, len(value)
    for field in ("messages", "input"):
        messages = body.get(field)
        if isinstance(messages, list):
            yield field, sum(_parts(message) for message in messages)


def _parts(message: object) -> int:
    content = message.get("content") if isinstance(message, dict) else None
    return len(content) if isinstance(content, list) else 1 if isinstance(message, dict) else 0
