"""The answers of an emulated model: a function of the prompt, so that a client can check that an answer is its own."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from runpod_emulator.errors import BadRequest
from runpod_emulator.hosted.schema import instance
from runpod_emulator.hosted.settings import HostedModel

Json = dict[str, Any]
BYTES_PER_TOKEN = 4

#: Some words have characters of several bytes, so that tests cover streams that are split within a character.
WORDS = (
    *("river", "stone", "lantern", "harbour", "meadow", "copper", "winter", "garden", "signal", "paper", "orchard"),
    *("compass", "silver", "thunder", "window", "market", "candle", "bridge", "feather", "mountain", "island"),
    *("café", "naïve", "größer", "señal", "東京", "привет", "🙂", "ελλάδα"),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """One choice of an answer."""

    #: The tokens; joined they are the text, or the arguments of the tool call.
    pieces: tuple[str, ...]
    #: OpenAI's finish_reason.
    finish: str
    #: The name of the called tool; None for a text.
    tool: str | None = None

    @property
    def text(self) -> str:
        """Returns the whole text."""
        return "".join(self.pieces)


def count_tokens(text: str) -> int:
    """Returns one token per four bytes of UTF-8, rounded up, at least one: the emulator has no tokenizer."""
    return max(1, math.ceil(len(text.encode()) / BYTES_PER_TOKEN))


def expected_answer(prompt: str, tokens: int = 48, choice: int = 0) -> str:
    """Returns the text that a model with `tokens` as its `answer_tokens` gives to `prompt` (from prompt_text)."""
    return "".join(_pieces(prompt, tokens, choice))


def prompt_text(body: Mapping[str, Any]) -> str:
    """Returns all text of a request, joined by line ends: its instructions, then its messages, prompt or input.

    Raises BadRequest for a request without any.
    """
    for name in ("messages", "prompt", "input"):
        if body.get(name) is not None:
            return "\n".join([*_texts(body.get("instructions")), *_texts(body[name])])
    raise BadRequest("messages: missing; the request needs messages, prompt or input")


def answer(body: Mapping[str, Any], prompt: str, model: HostedModel, choice: int = 0) -> Answer:
    """Returns a forced tool call, an instance of the requested schema, a known answer, or words. Raises BadRequest."""
    if (tool := _forced_tool(body)) is not None:
        arguments = json.dumps(instance(tool.get("parameters") or {}), ensure_ascii=False)
        return Answer(_split(arguments), "tool_calls", str(tool.get("name")))
    limit = _limit(body)
    if (schema := _schema(body)) is not None:
        return Answer(_split(json.dumps(instance(schema), ensure_ascii=False)), "stop")
    if model.known_answers is not None:
        words = _words(model.known_answers.to(body, prompt))
        return Answer(words[:limit], "stop" if limit is None or len(words) <= limit else "length")
    count = model.answer_tokens if limit is None else min(limit, model.answer_tokens)
    return Answer(_pieces(prompt, count, choice), "stop" if count == model.answer_tokens else "length")


def embedding(text: str, dimensions: int) -> list[float]:
    """Returns a unit vector that is a function of the text."""
    generator = _random(text)
    # Normal components make the direction uniform on the sphere, so different texts are nearly orthogonal.
    vector = [generator.gauss(0, 1) for _ in range(dimensions)]
    length = math.sqrt(sum(part * part for part in vector))
    return [part / length for part in vector]


def _pieces(prompt: str, count: int, choice: int) -> tuple[str, ...]:
    words = _random(f"{choice}:{prompt}").choices(WORDS, k=count)
    return (words[0], *(f" {word}" for word in words[1:]))


def _words(text: str) -> tuple[str, ...]:
    """Returns the words, each with the spaces before it, so that joined they are the text."""
    return tuple(re.findall(r"\s*\S+", text))


def _split(text: str, size: int = 6) -> tuple[str, ...]:
    return tuple(text[start : start + size] for start in range(0, len(text), size)) or ("",)


def _random(text: str) -> random.Random:
    return random.Random(blake2b(text.encode(), digest_size=8).digest())  # noqa: S311  repeatable, not secret


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return _texts(value.get("content", value.get("text", value.get("output"))))
    if isinstance(value, Sequence):
        if all(isinstance(part, int) for part in value):
            return [" ".join(map(str, value))]
        return [text for part in value for text in _texts(part)]
    return []


def _limit(body: Mapping[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
        value = body.get(name)
        if value is not None:
            if (count := whole_number(value)) is None or count < 1:
                raise BadRequest(f"{name}: expected a whole number above zero")
            return count
    return None


def whole_number(value: object) -> int | None:
    """Returns a whole number as an int, also 5.0 as JSON Schema has it; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _forced_tool(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    choice = body.get("tool_choice")
    tools = body.get("tools") or []
    functions = [tool.get("function", tool) for tool in tools if isinstance(tool, Mapping)]
    if choice == "required" and functions:
        first: Mapping[str, Any] = functions[0]
        return first
    if not isinstance(choice, Mapping):
        return None
    name = choice.get("function", choice).get("name")
    for function in functions:
        if function.get("name") == name:
            named: Mapping[str, Any] = function
            return named
    raise BadRequest(f"tool_choice: no tool is named {name!r}")


def _schema(body: Mapping[str, Any]) -> Json | None:
    # Chat completions name it response_format, /v1/responses text.format.
    response_format = body.get("response_format") or (body.get("text") or {}).get("format") or {}
    if response_format.get("type") == "json_object":
        return {"type": "object", "properties": {"answer": {"type": "string"}}}
    if response_format.get("type") != "json_schema":
        return None
    schema: Json = response_format.get("json_schema", response_format).get("schema") or {}
    return schema
