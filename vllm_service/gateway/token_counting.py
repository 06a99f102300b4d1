"""Counts the tokens that a provider did not, with the model's own tokenizer, after the answer has gone."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

from vllm_service.domain.usage import TOKENS_PER_IMAGE, Usage
from vllm_service.gateway.answer_text import AnswerText
from vllm_service.gateway.context import RequestContext
from vllm_service.gateway.operations import CHAT, RESPONSES, Operation

# OpenAI's rule of thumb for what surrounds a message, where no template says it: role and separators.
TOKENS_PER_MESSAGE = 4


class Tokenizer:
    """Opened from a tokenizer.json, or from the folder that holds one; templates are looked for beside it."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as Opened  # noqa: PLC0415

        file = tokenizer_file(path)
        self._tokenizer = Opened.from_file(str(file))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._render = _template(file.parent)

    def count(self, texts: Iterable[str], *, is_prompt: bool = False) -> int:
        """Tokens of all. is_prompt: with what the tokenizer puts around a prompt, such as its first token."""
        return sum(len(self._tokenizer.encode(text, add_special_tokens=is_prompt).ids) for text in texts)

    def prompt_tokens(self, operation: Operation, body: bytes) -> int:
        """Of a request; ValueError for a body that says nothing."""
        fields = json.loads(body)
        if operation in (CHAT, RESPONSES):
            return self._conversation(_messages(fields), fields.get("tools"))
        return self._inputs(fields.get("prompt", fields.get("input")))

    def _conversation(self, messages: list[dict[str, Any]], tools: object) -> int:
        images = sum(_images(message.get("content")) for message in messages)
        plain = [_plain(message) for message in messages]
        if self._render is not None:
            try:
                rendered = self._render(messages=plain, tools=tools, add_generation_prompt=True)
            except Exception:  # noqa: BLE001,RUF100  a template may raise anything; the text is still there
                rendered = None
            if rendered is not None:
                return self.count([rendered]) + images * TOKENS_PER_IMAGE
        texts = [message["content"] for message in plain]
        return self.count(texts) + TOKENS_PER_MESSAGE * len(plain) + images * TOKENS_PER_IMAGE

    def _inputs(self, inputs: object) -> int:
        """Text, texts, tokens or lists of tokens."""
        if isinstance(inputs, str):
            return self.count([inputs], is_prompt=True)
        if not isinstance(inputs, list):
            raise ValueError("no prompt")  # noqa: TRY004
        if all(isinstance(part, int) for part in inputs):
            return len(inputs)
        return sum(self._inputs(part) for part in inputs)


def tokenizer_file(path: Path) -> Path:
    """The file itself, of a file or a folder."""
    return path / "tokenizer.json" if path.is_dir() else path


def _messages(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of chat, or of responses."""
    given = fields.get("messages", fields.get("input"))
    messages = [{"role": "user", "content": given}] if isinstance(given, str) else given
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ValueError("no messages")
    if instructions := fields.get("instructions"):
        messages = [{"role": "system", "content": instructions}, *messages]
    return messages


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    """With its content as text, and the arguments of calls as objects: so vLLM hands them to a template."""
    plain = {**message, "content": _text(message.get("content"))}
    if calls := message.get("tool_calls"):
        functions = (dict(call["function"]) for call in calls)
        plain["tool_calls"] = [
            {**call, "function": {**function, "arguments": json.loads(function.get("arguments") or "{}")}}
            for call, function in zip(calls, functions, strict=True)
        ]
    return plain


def _text(content: object) -> str:
    if isinstance(content, list):
        return "\n".join(str(part["text"]) for part in content if isinstance(part, dict) and "text" in part)
    return content if isinstance(content, str) else ""


def _images(content: object) -> int:
    parts = content if isinstance(content, list) else []
    return sum(isinstance(part, dict) and "image" in str(part.get("type")) for part in parts)


def _template(directory: Path) -> Any:
    """The model's chat template as a function, rendered as transformers does; None where there is none."""
    config_file, template_file = directory / "tokenizer_config.json", directory / "chat_template.jinja"
    config = json.loads(config_file.read_text("utf-8")) if config_file.is_file() else {}
    source = template_file.read_text("utf-8") if template_file.is_file() else config.get("chat_template")
    if isinstance(source, list):  # several, by name
        source = {entry["name"]: entry["template"] for entry in source}.get("default")
    if not isinstance(source, str):
        return None
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().astimezone().strftime(form)
    special = {name: _special(value) for name, value in config.items() if name.endswith("_token") and value}
    environment.globals.update(special)
    return environment.from_string(source).render


def _special(value: object) -> str:
    return str(value["content"]) if isinstance(value, dict) else str(value)


def _refuse(message: str) -> None:
    raise ValueError(message)


_log = logging.getLogger(__name__)
# What waits holds its request and its answer: beyond this many, and for longer prompts, the estimate has to do.
MOST_WAITING = 64
LONGEST_PROMPT_BYTES = 4 * 2**20


class TokenCounting:
    """One thread; tokenizers stay open once they were needed. One that cannot be opened is said so once."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "token-counting")
        self._tokenizers: dict[Path, Tokenizer | None] = {}
        self._waiting = 0

    async def count(self, call: RequestContext, path: Path, said: AnswerText) -> None:
        """Replaces the call's estimated usage, which stays where this cannot be done. Never fails, never raises."""
        body = call.request.body
        if self._waiting >= MOST_WAITING or len(body) > LONGEST_PROMPT_BYTES or said.ended() is None:
            return
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            usage = await loop.run_in_executor(self._thread, self._counted, path, call.operation, body, said)
        except asyncio.CancelledError:
            return  # the gateway stops: the row is written with the estimate
        finally:
            self._waiting -= 1
        if usage is not None:
            call.count(usage)

    def _counted(self, path: Path, operation: Operation, body: bytes, said: AnswerText) -> Usage | None:
        """In the thread."""
        if path not in self._tokenizers:
            self._tokenizers[path] = _opened(path)
        tokenizer = self._tokenizers[path]
        if tokenizer is None or said.texts is None:
            return None
        try:
            prompt = tokenizer.prompt_tokens(operation, body)
            answer = tokenizer.count("".join(pieces) for pieces in said.texts.values())
        except Exception as error:  # noqa: BLE001,RUF100  its text may quote the prompt
            _log.warning("tokens could not be counted (%s); they are estimated", type(error).__name__)
            return None
        return Usage(prompt, answer if operation.has_completion else 0, estimated=True)


def _opened(path: Path) -> Tokenizer | None:
    try:
        return Tokenizer(path)
    except Exception as error:  # noqa: BLE001,RUF100  tokenizers raises its own, without a class
        _log.error("tokenizer %s cannot be used: %s; tokens are estimated", path, error)
        return None
