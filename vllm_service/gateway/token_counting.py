"""Counts what a provider did not: with the model's tokenizer, after the answer has gone, in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vllm_service.domain.usage import Usage
from vllm_service.gateway.answer_text import AnswerText
from vllm_service.gateway.context import RequestContext
from vllm_service.gateway.operations import Operation
from vllm_service.gateway.tokenizer import Tokenizer

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
