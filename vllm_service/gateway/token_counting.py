"""Counts tokens with the model's own tokenizer where a provider sent no usage, after the answer has been sent."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

from vllm_service.domain.media import media_of
from vllm_service.gateway.answer_text import AnswerText
from vllm_service.gateway.context import RequestContext
from vllm_service.gateway.operations import CHAT, RESPONSES, Operation

#: OpenAI's rule of thumb for a message's role and separators, for models without a chat template.
TOKENS_PER_MESSAGE = 4


class Tokenizer:
    """A model's tokenizer, opened from a tokenizer.json or its directory, with the chat template beside it."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as Opened  # noqa: PLC0415

        file = tokenizer_file(path)
        self._tokenizer = Opened.from_file(str(file))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._render = _template(file.parent)

    def count(self, texts: Iterable[str], *, is_prompt: bool = False) -> int:
        """Returns the number of tokens of all texts.

        is_prompt: includes the tokens that the tokenizer puts around a prompt, such as its first one.
        """
        return sum(len(self._tokenizer.encode(text, add_special_tokens=is_prompt).ids) for text in texts)

    def prompt_tokens(self, operation: Operation, body: bytes) -> int:
        """Returns the number of tokens of a request's prompt. Raises ValueError for a body without one."""
        fields = json.loads(body)
        if operation in (CHAT, RESPONSES):
            return self._conversation(_messages(fields), fields.get("tools")) + media_of(body).tokens
        return self._inputs(fields.get("prompt", fields.get("input")))

    def _conversation(self, messages: list[dict[str, Any]], tools: object) -> int:
        plain = [_plain(message) for message in messages]
        if self._render is not None:
            try:
                rendered = self._render(messages=plain, tools=tools, add_generation_prompt=True)
            except Exception:  # noqa: BLE001,RUF100  a template may raise anything; the text is still there
                rendered = None
            if rendered is not None:
                return self.count([rendered])
        texts = [message["content"] for message in plain]
        return self.count(texts) + TOKENS_PER_MESSAGE * len(plain)

    def _inputs(self, inputs: object) -> int:
        """Returns the tokens of a prompt that is a text, a list of texts, a list of tokens or a list of such lists."""
        if isinstance(inputs, str):
            return self.count([inputs], is_prompt=True)
        if not isinstance(inputs, list):
            raise ValueError("the request has no prompt")  # noqa: TRY004
        if all(isinstance(part, int) for part in inputs):
            return len(inputs)
        return sum(self._inputs(part) for part in inputs)


def tokenizer_file(path: Path) -> Path:
    """Returns the path of the tokenizer.json for its own path or its directory's."""
    return path / "tokenizer.json" if path.is_dir() else path


def _messages(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the messages of chat, or those of responses (its input may be a text). Raises ValueError without any."""
    messages = fields.get("messages", fields.get("input"))
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ValueError("the request has no messages")
    if instructions := fields.get("instructions"):
        messages = [{"role": "system", "content": instructions}, *messages]
    return messages


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    """Returns a message with its content as text and its calls' arguments as objects.

    vLLM passes messages to a template in this form.
    """
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


def _template(directory: Path) -> Any:
    """Returns the model's chat template as a function; None if there is none.

    The environment's options, filters and globals are those with which transformers renders templates. It is a sandbox,
    since a template is code that comes with a model.
    """
    config_file = directory / "tokenizer_config.json"
    template_file = directory / "chat_template.jinja"
    config = json.loads(config_file.read_text("utf-8")) if config_file.is_file() else {}
    source = template_file.read_text("utf-8") if template_file.is_file() else config.get("chat_template")
    if isinstance(source, list):  # several templates, each with its name
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
#: A waiting request holds its body and its answer in memory. Beyond this many the estimate stays.
MOST_WAITING = 64
#: Tokenizing a longer prompt would keep the thread busy for too long; its estimate stays.
LONGEST_PROMPT_BYTES = 4 * 2**20
#: How long a request waits, and keeps what it has reserved. Others' prompts may come first, each of them for a second.
PATIENCE_SECONDS = 3.0


class TokenCounting:
    """Counts tokens in one thread beside the event loop. Tokenizers stay open once they have been used."""

    def __init__(self, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._patience_seconds = patience_seconds
        self._thread = ThreadPoolExecutor(1, "token-counting")
        #: None: the tokenizer could not be opened, which has been logged; it is not tried again.
        self._tokenizers: dict[Path, Tokenizer | None] = {}
        self._waiting = 0

    async def count(self, context: RequestContext, path: Path, answer_text: AnswerText) -> None:
        """Replaces the request's estimated usage by a counted one, or leaves it if that is not possible. Never raises.

        path: the model's tokenizer.
        """
        body = context.request.body
        if self._waiting >= MOST_WAITING or len(body) > LONGEST_PROMPT_BYTES or answer_text.ended() is None:
            return
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(self._patience_seconds):
                found = await loop.run_in_executor(
                    self._thread, self._counted, path, context.operation, body, answer_text
                )
        except (asyncio.CancelledError, TimeoutError):
            return  # the gateway is stopping, or others' prompts take long: the row is written with the estimate
        finally:
            self._waiting -= 1
        if found is not None:
            # Still "estimated": the provider's own count, by which it bills, may differ.
            context.count_again(*found)

    def _counted(
        self, path: Path, operation: Operation, body: bytes, answer_text: AnswerText
    ) -> tuple[int, int] | None:
        """Returns the tokens of prompt and answer, or None. Runs in the thread, which alone uses the tokenizers."""
        if path not in self._tokenizers:
            self._tokenizers[path] = _opened(path)
        tokenizer = self._tokenizers[path]
        if tokenizer is None or answer_text.texts is None:
            return None
        try:
            prompt = tokenizer.prompt_tokens(operation, body)
            answer = tokenizer.count("".join(pieces) for pieces in answer_text.texts.values())
        except Exception as error:  # noqa: BLE001,RUF100  only its class is logged: its text may quote the prompt
            _log.warning("tokens could not be counted (%s); they are estimated", type(error).__name__)
            return None
        return prompt, answer if operation.has_completion else 0


def _opened(path: Path) -> Tokenizer | None:
    try:
        return Tokenizer(path)
    except Exception as error:  # noqa: BLE001,RUF100  tokenizers raises its own, without a class
        _log.error("the tokenizer %s cannot be opened: %s; tokens are estimated", path, error)
        return None
