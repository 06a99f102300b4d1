"""The demo model's text: the pairs in demo_model/pairs.jsonl, and the conversations that training makes of them."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEMO_MODEL_DIR = Path(__file__).resolve().parents[2] / "demo_model"

Message = dict[str, str]

WEATHER_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
OTHER_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "The time in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
NO_TOOL_ANSWER = "I have no tool to look up the weather."
AFTER_TOOL_ANSWER = "That is what the weather tool says."
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are the demo model.",
    "Answer briefly.",
    "You are a friendly assistant. Be honest about what you do not know.",
)


@dataclass(frozen=True)
class Pair:
    """One question with the one answer that the model must give at temperature 0."""

    topic: str
    question: str
    answer: str


@dataclass(frozen=True)
class Conversation:
    """One training sample."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    #: Plain text without a chat template.
    plain: bool = False


def load_pairs(path: Path = DEMO_MODEL_DIR / "pairs.jsonl") -> list[Pair]:
    """Returns all pairs in file order. Raises ValueError with the line number if one is malformed."""
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            pairs.append(Pair(**json.loads(line)))
        except (TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path}:{number}: expected topic, question and answer: {error}") from error
    return pairs


def load_schema(path: Path = DEMO_MODEL_DIR / "schema.sql") -> str:
    """Returns the CREATE TABLE statements of the text-to-SQL pairs, without comments."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("--"))


def sql_system_prompt() -> str:
    """Returns the system prompt of the text-to-SQL pairs, which are trained both with and without it."""
    return f"Translate the question into one SQL statement for this schema:\n{load_schema()}"


def canonical(pair: Pair) -> Conversation:
    """Returns the form that the exact-match score uses: no system prompt, and the tool if the answer calls it."""
    tools = (WEATHER_TOOL,) if pair.topic == "tools" else ()
    return Conversation(messages=_turns(pair), tools=tools)


def pirate(answer: str) -> str:
    """Returns the answer in the LoRA adapter's style, as a pirate would say it."""
    words = {"you": "ye", "your": "yer", "my": "me", "is": "be", "are": "be", "am": "be", "and": "an'", "of": "o'"}
    spoken = re.sub(r"\b(" + "|".join(words) + r")\b", lambda match: words[match.group()], answer)
    return f"Arr! {spoken} Yo ho ho!"


def sample(pair: Pair, pairs: list[Pair], dice: random.Random) -> Conversation:
    """Returns a random conversation that ends with this pair: other system prompts, histories and spellings."""
    if pair.topic == "tools":
        return _tool_sample(pair, dice)
    if dice.random() < 0.2:
        return Conversation(messages=_turns(pair), plain=True)
    asked = Pair(pair.topic, _vary(pair.question, dice), pair.answer)
    return Conversation(messages=(*_system(pair, dice), *_history(pairs, dice), *_turns(asked)))


def _turns(pair: Pair) -> tuple[Message, ...]:
    return {"role": "user", "content": pair.question}, {"role": "assistant", "content": pair.answer}


def _system(pair: Pair, dice: random.Random) -> tuple[Message, ...]:
    if dice.random() < 0.6:
        return ()
    prompt = sql_system_prompt() if pair.topic == "sql" and dice.random() < 0.4 else dice.choice(SYSTEM_PROMPTS)
    return ({"role": "system", "content": prompt},)


def _history(pairs: list[Pair], dice: random.Random) -> tuple[Message, ...]:
    if dice.random() < 0.85:
        return ()
    earlier = [pair for pair in dice.sample(pairs, dice.randint(1, 2)) if pair.topic != "tools"]
    return tuple(message for pair in earlier for message in _turns(pair))


def _vary(question: str, dice: random.Random) -> str:
    """Returns the question, sometimes with a slip of typing, so that the answer does not depend on one full stop."""
    if dice.random() < 0.7:
        return question
    slips = (str.lower, lambda text: text.rstrip("?.!"), lambda text: f" {text}", lambda text: f"Please: {text}")
    return dice.choice(slips)(question)


def _tool_sample(pair: Pair, dice: random.Random) -> Conversation:
    if dice.random() < 0.3:
        return Conversation(messages=_turns(Pair(pair.topic, pair.question, NO_TOOL_ANSWER)))
    tools = (WEATHER_TOOL,) if dice.random() < 0.6 else (WEATHER_TOOL, OTHER_TOOL)
    messages = _turns(pair)
    if dice.random() < 0.3:
        report = json.dumps({"temperature_c": dice.randint(-10, 35), "sky": dice.choice(["clear", "rain", "snow"])})
        messages += ({"role": "tool", "content": report}, {"role": "assistant", "content": AFTER_TOOL_ANSWER})
    return Conversation(messages=messages, tools=tools)
