"""Sends a request to one provider, decides whether what comes back is an answer, and reads its usage."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial

import msgspec

from vllm_service.catalog.model import Provider
from vllm_service.domain.answers import Form, Verdict, judge_whole
from vllm_service.domain.event_stream import StreamBeginning
from vllm_service.domain.reported_usage import ReportedUsage
from vllm_service.domain.usage import counted, usage_of
from vllm_service.errors import UpstreamFailed
from vllm_service.gateway.answer_text import estimated_tokens
from vllm_service.gateway.context import RequestContext
from vllm_service.gateway.provider_errors import not_an_answer, not_reached, refused
from vllm_service.gateway.replayed_answer import ReplayedAnswer
from vllm_service.gateway.request_body import for_provider
from vllm_service.http.upstream import Answer, Patience, ProviderFault, TimedOut
from vllm_service.resilience.attempts import Attempt
from vllm_service.resilience.failures import Failure, Kind, NotAnswered


def usage_of_answer(answer: Answer, form: Form, beginning: StreamBeginning | None, model: str) -> ReportedUsage | None:
    """Returns the usage of a whole answer; None if it has none, and for a stream that has begun.

    beginning: of a request for a stream. Raises NotAnswered for everything that is not an answer, and closes it.
    """
    if answer.status == 200:
        judgement = judge_whole(form, answer.body) if beginning is None else beginning.judge(answer.body)
        if judgement.verdict is Verdict.ANSWER:
            return usage_of(judgement.usage)
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


def _beginning(context: RequestContext) -> StreamBeginning:
    """Returns what reads the beginning of a streamed answer."""
    return StreamBeginning(context.operation.form, context.fields.choices(context.operation))


def _tokens_in(answer: Answer) -> int:
    return estimated_tokens(answer.body)


class ProviderRequest(msgspec.Struct, eq=False):
    """Implements attempts.Send for the gateway. It records each attempt in the request's context, for the ledger."""

    _context: RequestContext

    def __call__(self, attempt: Attempt[Answer], patience: Patience) -> Coroutine[None, None, Answer]:
        """Returns when a whole answer is there, or the first event of a stream. Raises NotAnswered."""
        context = self._context
        step = attempt.step
        provider = context.snapshot.catalog.providers[step.provider]
        context.attempts += 1
        if not attempt.is_hedge:
            context.sent_to(attempt, provider.on_disconnect)
        # Without a coroutine of its own: every request would pay for it.
        if not context.is_streamed:
            return self._answer(attempt, provider, patience, None)
        if context.operation.has_stream_options:
            return self._with_options(attempt, provider, patience)
        return self._answer(attempt, provider, patience, _beginning(context))

    async def _with_options(self, attempt: Attempt[Answer], provider: Provider, patience: Patience) -> Answer:
        """Sends the request with `stream_options` unless the provider refuses them."""
        context = self._context
        options = context.snapshot.stream_options[provider.name]
        if not options.are_sent:
            return await self._answer(attempt, provider, patience, _beginning(context), takes_options=False)
        try:
            answer = await self._answer(attempt, provider, patience, _beginning(context))
        except NotAnswered as refusal:
            if not options.may_be_why(refusal.failure.status, refusal.error.param, refusal.text):
                raise
        else:
            options.taken()
            return answer
        # At once, and within this attempt: the provider is not at fault, and the time was hardly used.
        answer = await self._answer(attempt, provider, patience, _beginning(context), takes_options=False)
        options.refused()
        return answer

    async def _answer(
        self,
        attempt: Attempt[Answer],
        provider: Provider,
        patience: Patience,
        beginning: StreamBeginning | None,
        *,
        takes_options: bool = True,
    ) -> Answer:
        """Sends the request once, as `__call__` does. takes_options: whether the provider gets `stream_options`.

        beginning: reads the beginning of a streamed answer; None if a whole one was requested.
        """
        context = self._context
        operation = context.operation
        model = attempt.step.model
        body = for_provider(context.request.body, context.fields, operation, model, takes_options=takes_options)
        try:
            # The connection pool watches the provider's own timeout without a timer for each request. Only an attempt
            # that has less time than that, because of the request's deadline, needs a timer of its own.
            if patience.first_byte_seconds < provider.first_byte_timeout_seconds:
                answer = await self._within(patience, provider, body, beginning)
            else:
                headers = context.upstream_headers()
                path = operation.path
                answer = await context.upstream.send(provider, path, headers, body, patience, beginning=beginning)
        except ProviderFault as fault:
            raise not_reached(fault, context.facts.model) from fault
        form = operation.form
        reported = usage_of_answer(answer, form, beginning, context.facts.model)
        if not answer.is_stream:
            attempt.usage = counted(reported, context.bounds, partial(_tokens_in, answer))
            # A stream was requested and its answer has come in one piece.
            return answer if beginning is None else ReplayedAnswer(answer, form)
        return answer

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
