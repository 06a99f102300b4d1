"""Sends a request to one provider, decides whether what comes back is an answer, and reads its usage."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import msgspec

from vllm_service.catalog.model import Provider
from vllm_service.domain.answers import Form, Verdict, judge_whole
from vllm_service.domain.event_stream import StreamBeginning
from vllm_service.domain.usage import MOST_TOKENS, Usage
from vllm_service.errors import UpstreamFailed
from vllm_service.gateway.context import RequestContext
from vllm_service.gateway.provider_errors import not_an_answer, not_reached, refused
from vllm_service.gateway.replayed_answer import ReplayedAnswer
from vllm_service.gateway.request_body import for_provider
from vllm_service.http.upstream import Answer, Patience, ProviderFault, TimedOut
from vllm_service.resilience.attempts import Attempt
from vllm_service.resilience.failures import Failure, Kind, NotAnswered


class _Details(msgspec.Struct):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    """A usage object by the names of chat and completions, and by those of responses (`input_...`, `output_...`)."""

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
    """A whole answer or the data of one event, as far as usage goes; all other members are skipped unread."""

    usage: _Usage | None = None
    #: The last event of a responses stream has its usage in here.
    response: _Response | None = None
    choices: msgspec.Raw = msgspec.Raw(b"")


_decoder = msgspec.json.Decoder(_Answer)
_lenient = msgspec.json.Decoder(dict[str, msgspec.Raw])


class EventUsage(NamedTuple):
    """The usage in one event of a stream."""

    #: None if the event has none.
    usage: Usage | None
    #: Whether the event holds nothing else: its `choices` is an empty array.
    is_only_usage: bool


def usage_in(document: bytes) -> Usage | None:
    """Returns the usage of a whole answer; None if it has none. Raises ValueError if it is no JSON object."""
    try:
        return _usage_of(_decoder.decode(document))
    except msgspec.ValidationError:
        return _usage_of(_read(document))


def find_usage(document: bytes) -> EventUsage:
    """Returns the usage in one event's data. Raises ValueError if the data is no JSON object."""
    answer = _read(document)
    choices = bytes(answer.choices)
    # `choices` stays raw, so that long ones are not parsed; an empty array, white space included, is short.
    return EventUsage(_usage_of(answer), len(choices) <= 16 and choices[1:-1].strip() == b"" != choices)


def _read(document: bytes) -> _Answer:
    """Parses an answer. One whose usage has another shape has no usage. Raises ValueError if it is no JSON object."""
    try:
        return _decoder.decode(document)
    except msgspec.ValidationError:
        _lenient.decode(document)  # raises if the document is something else than an object
        return _Answer()


def _usage_of(answer: _Answer) -> Usage | None:
    """Returns the usage by our names; None if there is none, or if it is more than any answer can have.

    Such a number would use up an organisation's month, and no database would take its row. Details that contradict
    the totals are limited to these.
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
    of_prompt = usage.prompt_tokens_details or usage.input_tokens_details
    of_completion = usage.completion_tokens_details or usage.output_tokens_details
    if prompt < 0 or completion < 0 or of_prompt or of_completion:
        return _with_details(max(0, prompt), max(0, completion), of_prompt, of_completion)
    return Usage(prompt, completion)


def _with_details(prompt: int, completion: int, of_prompt: _Details | None, of_completion: _Details | None) -> Usage:
    cached = (of_prompt.cached_tokens or 0) if of_prompt else 0
    reasoning = (of_completion.reasoning_tokens or 0) if of_completion else 0
    return Usage(prompt, completion, min(max(0, cached), prompt), min(max(0, reasoning), completion))


def usage_of_answer(answer: Answer, form: Form, beginning: StreamBeginning | None, model: str) -> Usage | None:
    """Returns the usage of a whole answer; None if it has none, and for a stream that has begun.

    beginning: of a request for a stream. Raises NotAnswered for everything that is not an answer, and closes it.
    """
    if answer.status == 200:
        judgement = judge_whole(form, answer.body) if beginning is None else beginning.judge(answer.body)
        if judgement.verdict is Verdict.ANSWER:
            return usage_in(b'{"usage":%b}' % judgement.usage) if judgement.usage else None
        failed = not_an_answer(judgement, answer.headers, model)
    else:
        failed = _refused(answer, model)
    answer.close()
    raise failed


def _refused(answer: Answer, model: str) -> NotAnswered:
    """Returns the failure for a status other than 200."""
    status = answer.status
    if 200 <= status < 400:  # neither an answer nor an error that HTTP has a status for; redirects are not followed
        return _no_answer(Kind.GARBAGE, model, "failed")
    return refused(status, answer.headers, answer.body, model)


def _no_answer(kind: Kind, model: str, what: str) -> NotAnswered:
    return NotAnswered(Failure(kind), UpstreamFailed(f"A provider of {model!r} {what}.", details={"model": model}))


def _beginning(context: RequestContext) -> StreamBeginning | None:
    """Returns what reads the beginning of a streamed answer; None if a whole one was requested."""
    return StreamBeginning(context.operation.form, context.fields.choices) if context.is_streamed else None


class ProviderRequest(msgspec.Struct, eq=False):
    """Implements attempts.Send for the gateway. It records each attempt in the request's context, for the ledger."""

    _context: RequestContext

    async def __call__(self, attempt: Attempt[Answer], patience: Patience) -> Answer:
        """Returns when a whole answer is there, or the first event of a stream. Raises NotAnswered."""
        context = self._context
        step = attempt.step
        provider = context.snapshot.catalog.providers[step.provider]
        context.attempts += 1
        if not attempt.is_hedge:
            context.sent_to(attempt, provider.on_disconnect)
        if not context.is_streamed or not context.operation.has_stream_options:
            return await self._answer(attempt, provider, patience)
        options = context.snapshot.stream_options[provider.name]
        if not options.are_sent:
            return await self._answer(attempt, provider, patience, takes_options=False)
        try:
            answer = await self._answer(attempt, provider, patience)
        except NotAnswered as refusal:
            if not options.may_be_why(refusal.failure.status, refusal.error.param, refusal.text):
                raise
        else:
            options.taken()
            return answer
        # At once, and within this attempt: the provider is not at fault, and the time was hardly used.
        answer = await self._answer(attempt, provider, patience, takes_options=False)
        options.refused()
        return answer

    async def _answer(
        self, attempt: Attempt[Answer], provider: Provider, patience: Patience, *, takes_options: bool = True
    ) -> Answer:
        """Sends the request once, as `__call__` does. takes_options: whether the provider gets `stream_options`."""
        context = self._context
        beginning = _beginning(context)
        fields, operation = context.fields, context.operation
        body = for_provider(context.request.body, fields, operation, attempt.step.model, takes_options=takes_options)
        try:
            # The connection pool watches the provider's own timeout without a timer for each request. Only an attempt
            # that has less time than that, because of the request's deadline, needs a timer of its own.
            if patience.first_byte_seconds < provider.first_byte_timeout_seconds:
                answer = await self._within(patience, provider, body, beginning)
            else:
                headers = context.upstream_headers()
                path = context.operation.path
                answer = await context.upstream.send(provider, path, headers, body, patience, beginning=beginning)
        except ProviderFault as fault:
            raise not_reached(fault, context.facts.model) from fault
        form = context.operation.form
        attempt.usage = usage_of_answer(answer, form, beginning, context.facts.model)
        # A stream was requested and its answer has come in one piece.
        return answer if beginning is None or answer.is_stream else ReplayedAnswer(answer, form)

    @property
    def is_answer_needed(self) -> bool:
        """True while the caller is there. After that an answer may still be drained, but no other is tried for."""
        return not self._context.writer.has_left

    async def close(self, answer: Answer) -> None:
        """Closes an answer that lost a race."""
        answer.close()

    async def _within(
        self, patience: Patience, provider: Provider, body: bytes, beginning: StreamBeginning | None
    ) -> Answer:
        """Sends the request with a timer. Raises ProviderFault, TimedOut among them."""
        context = self._context
        seconds = patience.first_byte_seconds
        try:
            async with asyncio.timeout(seconds):
                headers = context.upstream_headers()
                path = context.operation.path
                return await context.upstream.send(provider, path, headers, body, patience, beginning=beginning)
        except TimeoutError:
            raise TimedOut(f"no answer within the {seconds:g} s that were left") from None
