"""Bounds what one request may make the engine do besides generating text, so that the others do not wait for it.

A constraint on the answer (a list of choices, a grammar, a schema) is compiled before the first token. 100,000 choices
took vLLM more than a minute; 100,000 sequences of one request of 6 kB blocked it for 11 seconds (docs/benchmarks.md).
What is measured in a body is its form: prompts of any length are left to the model's context.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
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
# Probabilities of the prompt take the engine so much longer than a few tokens of an answer.
PROMPT_LOGPROBS_WEIGHT = 16
# Parts of a message that are no text, by the fields that hold them.
MEDIA = frozenset(
    {
        "image_url",
        "input_audio",
        "audio_url",
        "video_url",
        "image_pil",
        "image_embeds",
        "audio_embeds",
        "file",
        "source",
    }
)
BATCHES = frozenset({PROMPT, *POOLED})
# A small body is parsed only for this, or for names that are escaped.
MULTIPLIER, MULTIPLIER_WRITTEN, ESCAPED = "n", b'"n"', b"\\u00"
# Longer than any list that a body of this size may hold, an entry and a comma each.
BYTES_PER_ENTRY = 2


@dataclass(frozen=True)
class RequestLimits:
    """The bounds of one request."""

    #: Of the JSON text that is compiled into a grammar. Choices, regular expressions and grammars count four times.
    constraint_bytes: int = 65_536
    #: Entries of one list or object in the body, such as messages, stop words or biases.
    list_items: int = 16_384
    #: Prompts times `n`, sixteenfold with probabilities of the prompt. Of a batch for embeddings four times as many.
    sequences: int = 512
    #: Of all texts together, which are tokenized one after the other for all requests. Images and audio are no text.
    text_characters: int = 2_000_000

    def check(self, body: bytes | None, document: Json | None = None) -> None:
        """Raises InvalidInput where a JSON body is beyond a bound. What is no JSON object is left to the engine.

        document: the body parsed, where it is at hand.
        """
        if body is None:
            return
        if document is None and (document := self._parsed(body)) is None:
            return
        has_batch = len(body) > self._batch_bytes and not BATCHES.isdisjoint(document)
        if MULTIPLIER not in document and not has_batch and len(body) <= self._large_bytes:
            return
        self._check_constraints(document)
        self._check_sequences(document)
        self._check_lists(document)
        if len(body) > self.text_characters:
            self._check_text(document)

    def _parsed(self, body: bytes) -> Json | None:
        """Returns the object that a body is, None where it is none, or is too small to concern any bound."""
        if len(body) <= self._batch_bytes and MULTIPLIER_WRITTEN not in body and ESCAPED not in body:
            return None
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            return None
        return document if isinstance(document, dict) else None

    @cached_property
    def _large_bytes(self) -> int:
        """The most bytes of a body that can hold neither a constraint nor a list beyond its bound."""
        return min(self.constraint_bytes // DENSE_WEIGHT, BYTES_PER_ENTRY * self.list_items, self.text_characters)

    @cached_property
    def _batch_bytes(self) -> int:
        """The same of a batch."""
        return BYTES_PER_ENTRY * self.sequences

    def _check_text(self, body: Json) -> None:
        if (characters := _characters(body)) > self.text_characters:
            raise InvalidInput(
                f"body: {characters} characters of text; at most {self.text_characters} are taken, because others wait "
                "while they are tokenized. Send less, or raise MAX_TEXT_CHARACTERS at the worker",
                param="body",
            )

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
        times = _whole_number(body.get(MULTIPLIER)) * (PROMPT_LOGPROBS_WEIGHT if _wants_prompt_logprobs(body) else 1)
        prompts = _entries(body.get(PROMPT))
        # A single prompt, or a chat, is multiplied by `n` alone.
        self._check_batch(PROMPT if prompts > 1 else MULTIPLIER, prompts * times, self.sequences)
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
                    f"{field}: {size} entries; at most {self.list_items} are taken. Send fewer, or raise "
                    "MAX_LIST_ITEMS at the worker",
                    param=field,
                )


#: The bounds where nothing is configured.
DEFAULT = RequestLimits()


def _wants_prompt_logprobs(body: Json) -> bool:
    return body.get("prompt_logprobs") is not None or (bool(body.get("echo")) and body.get("logprobs") is not None)


def _characters(body: Json) -> int:
    """Returns how many characters the body has in its texts, keys and all."""
    found, left = 0, [body]
    while left:
        value: Any = left.pop()
        if isinstance(value, str):
            found += len(value)
        elif isinstance(value, list):
            left.extend(value)
        elif isinstance(value, dict):
            left.extend(part for name, part in value.items() if name not in MEDIA)
            found += sum(map(len, value))
    return found


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
