"""A model's own tokenizer: the tokens of a prompt as vLLM would count them, and of an answer's text.

Imports `tokenizers` and jinja2 when the first one is opened: a gateway whose providers all send usage needs neither.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from vllm_service.domain.token_estimates import TOKENS_PER_IMAGE
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
