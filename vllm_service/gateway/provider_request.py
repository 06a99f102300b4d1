"""One sending of a request to a provider: whether what comes back is an answer, and the usage in it."""

from __future__ import annotations

import asyncio
import re
from typing import NamedTuple

import msgspec

from vllm_service.catalog.model import Provider
from vllm_service.domain.usage import MOST_TOKENS, Usage
from vllm_service.errors import UpstreamFailed
from vllm_service.gateway.context import RequestContext
from vllm_service.gateway.provider_errors import fault_error, refused
from vllm_service.gateway.request_body import for_provider
from vllm_service.http.upstream import Answer, CutShort, NotReached, Patience, ProviderFault, TimedOut
from vllm_service.resilience.attempts import Attempt
from vllm_service.resilience.failures import Failure, Kind, NotAnswered


class _Details(msgspec.Struct):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None


class _Response(msgspec.Struct):
    usage: _Usage | None = None


class _Answer(msgspec.Struct):
    usage: _Usage | None = None
    response: _Response | None = None
    choices: msgspec.Raw = msgspec.Raw(b"")


_decoder = msgspec.json.Decoder(_Answer)
_lenient = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Found(NamedTuple):
    """usage: None where there is none. is_only_usage: nothing else is in it (`choices` is empty)."""

    usage: Usage | None
    is_only_usage: bool


def usage_in(document: bytes) -> Usage | None:
    """Of a whole answer; None where it names none. Raises ValueError: this is not a JSON object."""
    try:
        return _usage_of(_decoder.decode(document))
    except msgspec.ValidationError:
        return _usage_of(_read(document))


def find_usage(document: bytes) -> Found:
    """Of one event's data. Raises ValueError: this is not a JSON object."""
    answer = _read(document)
    choices = bytes(answer.choices)
    return Found(_usage_of(answer), len(choices) <= 16 and choices[1:-1].strip() == b"" != choices)


def _read(document: bytes) -> _Answer:
    try:
        return _decoder.decode(document)
    except msgspec.ValidationError:
        _lenient.decode(document)  # an object, only with usage of another shape
        return _Answer()


def _usage_of(answer: _Answer) -> Usage | None:
    """In our words. Details that contradict the totals are cut to them. None for more than any answer can have.

    Such a number would use up an organisation's month, and no database would take its row.
    """
    usage = answer.usage
    if usage is None:
        usage = None if answer.response is None else answer.response.usage
        if usage is None:
            return None
    prompt = usage.prompt_tokens or usage.input_tokens or 0
    completion = usage.completion_tokens or usage.output_tokens or 0
    if prompt > MOST_TOKENS or completion > MOST_TOKENS:
        return None
    read = usage.prompt_tokens_details or usage.input_tokens_details
    written = usage.completion_tokens_details or usage.output_tokens_details
    if prompt < 0 or completion < 0 or read or written:
        return _with_details(max(0, prompt), max(0, completion), read, written)
    return Usage(prompt, completion)


def _with_details(prompt: int, completion: int, read: _Details | None, written: _Details | None) -> Usage:
    cached = (read.cached_tokens or 0) if read else 0
    reasoning = (written.reasoning_tokens or 0) if written else 0
    return Usage(prompt, completion, min(max(0, cached), prompt), min(max(0, reasoning), completion))


# A provider that fails after it has said 200 says so in its first event, or in place of the answer.
_ERROR_EVENT = re.compile(rb'\s*(?:event: ?error|data: ?\{\s*"error"\s*:\s*[^n\s])')
_ERROR_BODY = re.compile(rb'\s*\{\s*"error"\s*:\s*[^n\s]')
_KINDS = {NotReached: Kind.CONNECT, TimedOut: Kind.TIMEOUT, CutShort: Kind.CUT}


def usage_of_answer(answer: Answer, model: str) -> Usage | None:
    """The usage that a whole answer names; None for a stream that has begun. Closes what is none: NotAnswered."""
    if answer.status != 200:
        not_answered = _refused(answer, model)
    elif answer.is_stream:
        not_begun = _not_begun(answer, model)
        if not_begun is None:
            return None
        not_answered = not_begun
    else:
        body = answer.body
        if not _ERROR_BODY.match(body):
            try:
                return usage_in(body)
            except ValueError:
                not_answered = _no_answer(Kind.GARBAGE, model, "answered with what is not a JSON object")
        else:
            not_answered = _no_answer(Kind.GARBAGE, model, "failed")
    answer.close()
    raise not_answered


def not_reached(fault: ProviderFault, model: str) -> NotAnswered:
    """The provider did not answer as HTTP wants it."""
    return NotAnswered(Failure(_KINDS.get(type(fault), Kind.CUT)), fault_error(fault, model))


def _refused(answer: Answer, model: str) -> NotAnswered:
    """By its status."""
    status = answer.status
    if 200 <= status < 400:
        return _no_answer(Kind.GARBAGE, model, "failed")
    return refused(status, answer.headers, answer.body, model)


def _not_begun(answer: Answer, model: str) -> NotAnswered | None:
    """None for a stream that may be passed on."""
    if not answer.has_begun():
        return _no_answer(Kind.CUT, model, "ended the stream before it began")
    return _no_answer(Kind.GARBAGE, model, "failed") if _ERROR_EVENT.match(answer.body) else None


def _no_answer(kind: Kind, model: str, what: str) -> NotAnswered:
    return NotAnswered(Failure(kind), UpstreamFailed(f"A provider of {model!r} {what}.", details={"model": model}))


class ProviderRequest(msgspec.Struct, eq=False):
    """An attempts.Send. What it knows of each attempt stands in the call, for the row in the ledger."""

    _call: RequestContext

    async def __call__(self, attempt: Attempt[Answer], patience: Patience) -> Answer:
        """See attempts.Send. Returns when a whole answer is there, or of a stream the first event."""
        call, step = self._call, attempt.step
        provider = call.configured.catalog.providers[step.provider]
        call.attempts += 1
        if not attempt.is_hedge:
            call.went_to(attempt, provider.on_disconnect)
        body = for_provider(call.request.body, call.fields, call.operation, step.model)
        try:
            if patience.first_byte_seconds < provider.first_byte_timeout_seconds:
                answer = await self._within(patience, provider, body)
            else:  # the connections look after longer times, without a timer for each request
                headers = call.upstream_headers()
                answer = await call.upstream.send(provider, call.operation.path, headers, body, patience)
        except ProviderFault as fault:
            raise not_reached(fault, call.facts.model) from fault
        attempt.usage = usage_of_answer(answer, call.facts.model)
        return answer

    @property
    def is_wanted(self) -> bool:
        """A caller who has left, and whose answer was to be read to its end, needs no other."""
        return not self._call.caller.has_left

    async def leave(self, answer: Answer) -> None:
        """See attempts.Send."""
        answer.close()

    async def _within(self, patience: Patience, provider: Provider, body: bytes) -> Answer:
        call, seconds = self._call, patience.first_byte_seconds
        try:
            async with asyncio.timeout(seconds):
                headers = call.upstream_headers()
                return await call.upstream.send(provider, call.operation.path, headers, body, patience)
        except TimeoutError:
            raise TimedOut(f"no answer within the {seconds:g} s that were left") from None
