"""The tokens of one request: as usually reported, as they count, and as estimated without a tokenizer."""

from __future__ import annotations

import re
from binascii import crc32
from collections.abc import Callable, Iterable
from typing import Annotated

import msgspec

from vllm_service.domain.media import is_spelled_out, media_of
from vllm_service.domain.reported_usage import MOST_TOKENS, ReportedUsage, any_usage_of


class Usage(msgspec.Struct, frozen=True, gc=False):
    """The tokens of one request."""

    prompt_tokens: int
    completion_tokens: int
    #: Part of `prompt_tokens`, as OpenAI counts them.
    cached_tokens: int = 0
    #: Part of `completion_tokens`, as OpenAI counts them.
    reasoning_tokens: int = 0
    #: A count is not the provider's: it was counted with a tokenizer, or from the length of the text.
    estimated: bool = False
    #: The provider reported a count that this request cannot have; it was replaced, so `estimated` is true as well.
    implausible: bool = False

    @property
    def total_tokens(self) -> int:
        """Tokens of prompt and completion."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def if_counted(self) -> Usage | None:
        """This usage if the provider has counted all of it, so that a router may learn from it; else None."""
        return None if self.estimated else self


#: About as many bytes of JSON make a token: English text has 4.5 characters to one, code and other scripts fewer.
BYTES_PER_TOKEN = 4
#: What is reserved for an answer whose length neither the caller nor the model's context bounds.
ASSUMED_COMPLETION_TOKENS = 1024
#: Audio in a shorter body is short enough to be counted as text.
SHORT_BYTES = 8192
#: The least that two prompts have in common for a provider to have something cached: 256 tokens of four bytes.
PREFIX_BYTES = 1024
#: No model writes a longer answer (2026-11): the limit of a provider's count where nothing else bounds it.
LONGEST_ANSWER_TOKENS = 2**20
#: What a chat template, a provider's own instructions and its tools may add to a prompt that is in the body.
TEMPLATE_TOKENS = 4096
#: No prompt of a context that is not configured is longer (2026-11), wherever its parts are.
LONGEST_PROMPT_TOKENS = 10**7
_TOKEN_IDS = re.compile(rb"\s*\[[\s\[\],]*\d")
# Members that let a provider read more than the body holds: files, images and conversations elsewhere, hosted tools.
_ELSEWHERE = re.compile(
    rb'(?:_url|_id|file_data)"|"(?:conversation|web_search|file_search|code_interpreter|mcp|plugins|search)'
)


def estimated_prompt_tokens(body: bytes, inputs: bytes | memoryview = b"") -> int:
    """Returns the tokens by the length of the request's JSON. Images and the like count by media.py, not as text.

    inputs: the JSON of a prompt that may be a list of token ids, which count as they are.
    """
    text = len(body) // BYTES_PER_TOKEN
    tokens = 0
    # Without a second list no content has parts, and most bodies have none.
    if body.find(b"[", body.find(b"[") + 1) > 0 and (
        b"_url" in body or (len(body) > SHORT_BYTES and b"input_audio" in body) or is_spelled_out(body)
    ):
        tokens, data_bytes = media_of(body)
        text = (len(body) - data_bytes) // BYTES_PER_TOKEN
    if inputs and _TOKEN_IDS.match(inputs):
        text = max(text, bytes(inputs).count(b",") + 1)
    return text + tokens


def prefix_of(conversation: bytes | memoryview) -> int:
    """Returns a hash of how a conversation's JSON begins; 0 for one shorter than PREFIX_BYTES.

    CRC-32, because it is the same in every process, unlike `hash` of bytes.
    """
    return crc32(memoryview(conversation)[:PREFIX_BYTES]) if len(conversation) >= PREFIX_BYTES else 0


def longest_answer_tokens(bounds: Iterable[float | None], choices: int = 1) -> int | None:
    """Returns the tokens of all choices together, at the largest of the caller's bounds each; None without a bound.

    Providers differ in which of two bounds they take, so the larger one counts. A bound of 0 or less is none.
    """
    largest: float = 0
    for bound in bounds:  # every request runs it: a list for `max` takes longer
        if bound is not None and bound > largest:
            largest = bound
    return min(int(largest) * choices, MOST_TOKENS) if largest else None


def choices_of(numbers: tuple[float | None, ...], prompts: int = 1) -> int:
    """Returns how many answers a provider writes: for each prompt the larger of `n` and `best_of`, at least one."""
    largest = max([number for number in numbers if number is not None and number > 1], default=1)
    return min(int(largest) * max(1, prompts), MOST_TOKENS)


_Tokens = Annotated[int, msgspec.Meta(ge=0, le=MOST_TOKENS)]


class _Details(msgspec.Struct, gc=False):
    cached_tokens: _Tokens | None = None
    reasoning_tokens: _Tokens | None = None


class _Usual(msgspec.Struct, gc=False):
    """A usage object as nearly all are, so that its counts need not be looked at one by one."""

    prompt_tokens: _Tokens = 0
    completion_tokens: _Tokens = 0
    total_tokens: _Tokens | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    input_tokens_details: None = None
    output_tokens_details: None = None


_usual = msgspec.json.Decoder(_Usual)


def usage_of(document: bytes) -> ReportedUsage | None:
    """Returns the counts in the JSON of a usage object; None if it says nothing, is empty or is none."""
    if not document:
        return None
    try:
        usage = _usual.decode(document)
    except ValueError:
        return any_usage_of(document)
    prompt = usage.prompt_tokens
    completion = usage.completion_tokens
    if not prompt or not completion:
        return any_usage_of(document)
    of_prompt = usage.prompt_tokens_details
    of_completion = usage.completion_tokens_details
    return ReportedUsage(
        prompt,
        completion,
        usage.total_tokens,
        None if of_prompt is None else of_prompt.cached_tokens,
        None if of_completion is None else of_completion.reasoning_tokens,
    )


class TokenBounds(msgspec.Struct, frozen=True):
    """The most that one request can use. What a provider reports beyond it cannot be this request's count."""

    body: bytes
    #: As estimated before any tokenizer ran.
    prompt_tokens: int
    #: By the caller's bounds, all choices together; None without one. 0 for an operation that writes nothing.
    answer_tokens: int | None = None
    #: How many answers are written.
    choices: int = 1
    #: Of the model; None where it is not configured.
    context_length: int | None = None

    @property
    def most_completion(self) -> int:
        """The most tokens of all answers together."""
        each = self.context_length or LONGEST_ANSWER_TOKENS
        most = min(each * self.choices, MOST_TOKENS)
        answer = self.answer_tokens
        return most if answer is None or answer > most else answer

    @property
    def longest_answer(self) -> int | None:
        """The most tokens of all answers, by the caller's bound or the model's context; None: neither is known."""
        if self.answer_tokens is not None or self.context_length is None:
            return self.answer_tokens
        return min(max(1, self.context_length - self.prompt_tokens) * self.choices, MOST_TOKENS)

    def allows_prompt(self, tokens: int) -> bool:
        """Returns whether the prompt can have so many tokens: no more than it has bytes, but for what is elsewhere."""
        if tokens <= len(self.body) + TEMPLATE_TOKENS * self.choices:
            return True
        if tokens > (self.context_length or LONGEST_PROMPT_TOKENS) * self.choices:
            return False
        return _ELSEWHERE.search(self.body) is not None or is_spelled_out(self.body)


def counted(reported: ReportedUsage | None, bounds: TokenBounds, answer_tokens: Callable[[], int]) -> Usage:
    """Returns the usage of a request: each count as reported where it can be right, else by the total, else estimated.

    answer_tokens: estimates the tokens of the answer, or of what has come of it; called only where that is needed.
    """
    if reported is not None and not reported.is_implausible:
        prompt = reported.prompt_tokens
        completion = reported.completion_tokens or 0
        most = bounds.most_completion
        if prompt and completion <= most and (completion or not most) and bounds.allows_prompt(prompt):
            beyond = (reported.total_tokens or 0) > prompt + completion
            if not beyond and not reported.cached_tokens and not reported.reasoning_tokens:
                return Usage(prompt, completion)
            return _with_thoughts(prompt, completion, reported, most)
    estimate = min(max(0, answer_tokens()), bounds.most_completion)
    if reported is None:
        return Usage(bounds.prompt_tokens, estimate, estimated=True)
    return _completed(reported, bounds, estimate)


def _with_thoughts(prompt: int, completion: int, reported: ReportedUsage, most: int) -> Usage:
    """Returns the usage for counts that can be right. Tokens that only the total has are counted as the answer's.

    xAI counts reasoning beside the answer, and Gemini in the total alone; both bill it as output. So what is not
    reported as reasoning is an estimate. A total that is more than the answer may be is no reason to doubt the rest.
    """
    beyond = (reported.total_tokens or 0) - prompt - completion
    if beyond <= 0 or completion + beyond > most:
        return _usage(prompt, completion, reported)
    return _usage(prompt, completion + beyond, reported, is_estimated=beyond != reported.reasoning_tokens)


def _completed(reported: ReportedUsage, bounds: TokenBounds, estimate: int) -> Usage:
    """Returns the usage for a report that lacks a count, or has one that cannot be right."""
    prompt = _if_allowed(reported.prompt_tokens, bounds)
    total = reported.total_tokens
    most = bounds.most_completion
    if total is not None and total > most and not bounds.allows_prompt(total - most):
        total = None
    completion = reported.completion_tokens
    if completion is not None and completion > most:
        # The caller has agreed to pay for what was allowed. Where nothing was, what has come is the better measure.
        completion = estimate if bounds.answer_tokens is None else most
    reports = (reported.prompt_tokens, reported.completion_tokens, reported.total_tokens)
    is_implausible = reported.is_implausible or (prompt, completion, total) != reports
    if completion == 0 and estimate:  # the answer has text, so it has tokens
        completion = None
    is_counted = bool(prompt) and completion is not None
    if not is_counted:
        is_counted, prompt, completion = _by_total(prompt, completion, total, bounds, estimate)
    assert prompt is not None
    assert completion is not None
    return _usage(prompt, completion, reported, is_estimated=not is_counted, is_implausible=is_implausible)


def _if_allowed(prompt: int | None, bounds: TokenBounds) -> int | None:
    return prompt if prompt is None or bounds.allows_prompt(prompt) else None


def _by_total(
    prompt: int | None, completion: int | None, total: int | None, bounds: TokenBounds, estimate: int
) -> tuple[bool, int, int]:
    """Returns prompt and completion, of which at least one was not reported, and whether they follow from the total."""
    most = bounds.most_completion
    if prompt and (total or 0) - prompt > 0:
        return True, prompt, min((total or 0) - prompt, most)
    if prompt or not total:
        return False, prompt or bounds.prompt_tokens, estimate if completion is None else completion
    if completion is None:
        # The estimate of a prompt is of its JSON, which may be more than all tokens together.
        completion = min(max(total - bounds.prompt_tokens, min(estimate, total - 1)), most)
        return most == 0, total - completion, completion
    rest = total - completion
    is_possible = rest > 0 and bounds.allows_prompt(rest)
    return is_possible, rest if is_possible else bounds.prompt_tokens, completion


def _usage(
    prompt: int,
    completion: int,
    reported: ReportedUsage,
    *,
    is_estimated: bool = False,
    is_implausible: bool = False,
) -> Usage:
    """Returns the usage with its details, which are limited to the counts that they are a part of."""
    cached = reported.cached_tokens or 0
    reasoning = reported.reasoning_tokens or 0
    if cached > prompt or reasoning > completion:
        cached, reasoning = min(cached, prompt), min(reasoning, completion)
        is_implausible = is_implausible or not is_estimated
    return Usage(prompt, completion, cached, reasoning, is_estimated or is_implausible, is_implausible)
