"""Sends a request to one provider, decides whether what comes back is an answer, and reads its usage."""

from __future__ import annotations

import asyncio
import math
import re
from typing import NamedTuple

import msgspec

from vllm_service.catalog.model import Provider
from vllm_service.domain.usage import ReportedUsage, UsageFields, counted, read_usage
from vllm_service.errors import UpstreamFailed
from vllm_service.gateway.answer_text import estimated_tokens
from vllm_service.gateway.context import RequestContext
from vllm_service.gateway.provider_errors import fault_error, refused
from vllm_service.gateway.request_body import for_provider
from vllm_service.http.upstream import Answer, CutShort, NotReached, Patience, ProviderFault, TimedOut
from vllm_service.resilience.attempts import Attempt
from vllm_service.resilience.failures import Failure, Kind, NotAnswered


class _Response(msgspec.Struct):
    usage: UsageFields | None = None


class _Answer(msgspec.Struct):
    """A whole answer or the data of one event, as far as usage goes; all other members are skipped unread."""

    usage: UsageFields | None = None
    #: The last event of a responses stream has its usage in here.
    response: _Response | None = None
    choices: msgspec.Raw = msgspec.Raw(b"")


_decoder = msgspec.json.Decoder(_Answer)
_lenient = msgspec.json.Decoder(dict[str, msgspec.Raw])


class EventUsage(NamedTuple):
    """The usage in one event of a stream."""

    #: None if the event has none, or one that says nothing.
    usage: ReportedUsage | None
    #: Whether the event holds nothing else: its `choices` is an empty array.
    is_only_usage: bool


def usage_in(document: bytes) -> ReportedUsage | None:
    """Returns the usage of a whole answer; None if it has none. Raises ValueError if it is no JSON object."""
    return _usage_of(_read(document))


def find_usage(document: bytes) -> EventUsage:
    """Returns the usage in one event's data. Raises ValueError if the data is no JSON object."""
    answer = _read(document)
    choices = bytes(answer.choices)
    # `choices` stays raw, so that long ones are not parsed; an empty array, white space included, is short.
    return EventUsage(_usage_of(answer), len(choices) <= 16 and choices[1:-1].strip() == b"" != choices)


def _read(document: bytes) -> _Answer:
    """Parses an answer. Raises ValueError if it is no JSON object."""
    try:
        return _decoder.decode(document)
    except msgspec.ValidationError:  # a member is of another type, or a number is longer than can be read
        members = _lenient.decode(document)
        response = _members(members.get("response")).get("usage")
        fields = (_fields(members.get("usage")), _Response(_fields(response)))
        return _Answer(*fields, members.get("choices", msgspec.Raw(b"")))


def _members(raw: msgspec.Raw | None) -> dict[str, msgspec.Raw]:
    """Returns the members of an object, unread; none for anything else."""
    try:
        return {} if raw is None else _lenient.decode(raw)
    except msgspec.ValidationError:
        return {}


def _fields(raw: msgspec.Raw | None) -> UsageFields | None:
    """Returns a usage object whose members were each read on its own; None for no object."""
    read = {name: _value(member) for name, member in _members(raw).items() if name in UsageFields.__struct_fields__}
    return UsageFields(**read) if read else None


def _value(raw: msgspec.Raw) -> object:
    try:
        return msgspec.json.decode(raw)
    except msgspec.ValidationError:  # the only one without a type: a number of too many digits
        return math.inf


def _usage_of(answer: _Answer) -> ReportedUsage | None:
    usage = None if answer.usage is None else read_usage(answer.usage)
    if usage is None and answer.response is not None:
        usage = read_usage(answer.response.usage)
    return usage


# A provider that fails after the status 200 has been sent puts the error into its first event, or in place of the
# answer. `"error": null` is no error, hence [^n\s].
_ERROR_EVENT = re.compile(rb'\s*(?:event: ?error|data: ?\{\s*"error"\s*:\s*[^n\s])')
_ERROR_BODY = re.compile(rb'\s*\{\s*"error"\s*:\s*[^n\s]')
_KINDS = {NotReached: Kind.CONNECT, TimedOut: Kind.TIMEOUT, CutShort: Kind.CUT}


def usage_of_answer(answer: Answer, model: str) -> ReportedUsage | None:
    """Returns the usage of a whole answer; None if it has none, and for a stream that has begun.

    Raises NotAnswered for everything that is not an answer, and closes it.
    """
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
    """Returns the failure of an attempt that got no answer by HTTP's rules."""
    return NotAnswered(Failure(_KINDS.get(type(fault), Kind.CUT)), fault_error(fault, model))


def _refused(answer: Answer, model: str) -> NotAnswered:
    """Returns the failure for a status other than 200."""
    status = answer.status
    if 200 <= status < 400:  # neither an answer nor an error that HTTP has a status for; redirects are not followed
        return _no_answer(Kind.GARBAGE, model, "failed")
    return refused(status, answer.headers, answer.body, model)


def _not_begun(answer: Answer, model: str) -> NotAnswered | None:
    """Returns the failure of a stream that ended or broke before its first content; None if it may be passed on."""
    if not answer.has_begun():
        return _no_answer(Kind.CUT, model, "ended the stream before it began")
    return _no_answer(Kind.GARBAGE, model, "failed") if _ERROR_EVENT.match(answer.body) else None


def _no_answer(kind: Kind, model: str, what: str) -> NotAnswered:
    return NotAnswered(Failure(kind), UpstreamFailed(f"A provider of {model!r} {what}.", details={"model": model}))


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
        body = for_provider(context.request.body, context.fields, context.operation, step.model)
        try:
            # The connection pool watches the provider's own timeout without a timer for each request. Only an attempt
            # that has less time than that, because of the request's deadline, needs a timer of its own.
            if patience.first_byte_seconds < provider.first_byte_timeout_seconds:
                answer = await self._within(patience, provider, body)
            else:
                headers = context.upstream_headers()
                answer = await context.upstream.send(provider, context.operation.path, headers, body, patience)
        except ProviderFault as fault:
            raise not_reached(fault, context.facts.model) from fault
        reported = usage_of_answer(answer, context.facts.model)
        if not answer.is_stream:
            attempt.usage = counted(reported, context.bounds, lambda: estimated_tokens(answer.body))
        return answer

    @property
    def is_answer_needed(self) -> bool:
        """True while the caller is there. After that an answer may still be drained, but no other is tried for."""
        return not self._context.writer.has_left

    async def close(self, answer: Answer) -> None:
        """Closes an answer that lost a race."""
        answer.close()

    async def _within(self, patience: Patience, provider: Provider, body: bytes) -> Answer:
        """Sends the request with a timer. Raises ProviderFault, TimedOut among them."""
        context = self._context
        seconds = patience.first_byte_seconds
        try:
            async with asyncio.timeout(seconds):
                headers = context.upstream_headers()
                return await context.upstream.send(provider, context.operation.path, headers, body, patience)
        except TimeoutError:
            raise TimedOut(f"no answer within the {seconds:g} s that were left") from None
