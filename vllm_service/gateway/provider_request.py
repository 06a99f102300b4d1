"""Sends a request to one provider, decides whether what comes back is an answer, and reads its usage."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import TypeVar

import msgspec

from vllm_service.catalog.model import PromptCache, Provider
from vllm_service.domain.answers import IS_ANSWER, Form, Judgement, Verdict, judge_whole
from vllm_service.domain.event_stream import StreamBeginning
from vllm_service.domain.usage import TokenBounds, Usage, counted, usage_of
from vllm_service.gateway.answer_text import estimated_tokens
from vllm_service.gateway.context import RequestContext
from vllm_service.gateway.pinning import PinnedSend
from vllm_service.gateway.provider_errors import not_an_answer, not_reached, refused
from vllm_service.gateway.replayed_answer import ReplayedAnswer
from vllm_service.gateway.request_body import CacheMember, for_provider, has_other_stream_options
from vllm_service.http.upstream import Answer, NoFreeConnection, Patience, ProviderFault, Sending, TimedOut
from vllm_service.resilience.attempts import Attempt
from vllm_service.resilience.failures import NotAnswered

Read = TypeVar("Read")
#: Of the statuses from 201 to 399: neither an answer nor an error. Redirects are not followed.
UNUSABLE = Judgement(Verdict.NOT_AN_ANSWER, "failed")
_SHARED = PromptCache.SHARED

#: A longer answer is read in a thread: what is strange in it is read by Python code, which would hold the event loop.
#: What is usual in it is read by msgspec, at less than a millisecond a megabyte.
LARGE_BYTES = 128 * 2**10


def read_answer(
    answer: Answer, body: bytes, form: Form, beginning: StreamBeginning | None, bounds: TokenBounds
) -> tuple[Judgement, Usage | None]:
    """Returns the judgement of an answer, and the usage of one that is whole; None for a stream that has begun.

    body: the answer's. beginning: of a request for a stream. Pure: it may run in a thread.
    """
    if answer.status != 200:
        return UNUSABLE, None
    judgement = judge_whole(form, body) if beginning is None else beginning.judge(body)
    if answer.is_stream or judgement.verdict is not IS_ANSWER:
        return judgement, None
    return judgement, counted(usage_of(judgement.usage), bounds, partial(estimated_tokens, body))


def _no_answer(answer: Answer, judgement: Judgement, model: str) -> NotAnswered:
    """Closes what is no answer, and returns the failure of its attempt."""
    if 200 <= answer.status < 400:
        failed = not_an_answer(judgement, answer.headers, model)
    else:
        failed = refused(answer.status, answer.headers, answer.body, model)
    answer.close()
    return failed


def _beginning(context: RequestContext) -> StreamBeginning:
    """Returns what reads the beginning of a streamed answer."""
    return StreamBeginning(context.operation.form, context.fields.choices(context.operation))


class ProviderRequest(msgspec.Struct, eq=False):
    """Implements attempts.Send for the gateway. It records each attempt in the request's context, for the ledger."""

    _context: RequestContext

    def __call__(self, attempt: Attempt[Answer], patience: Patience) -> Coroutine[None, None, Answer]:
        """Returns when a whole answer is there, or the first content of a stream. Raises NotAnswered."""
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
        # What a caller has added to them is that caller's mistake: all others' streams keep their usage.
        if not has_other_stream_options(context.request.body, context.fields):
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
        key = context.key
        cache = provider.prompt_cache
        member = None if cache is _SHARED else self._cache_member(cache)
        body = for_provider(
            context.request.body, context.fields, operation, model, takes_options=takes_options, cache=member
        )
        try:
            headers = context.upstream_headers()
            send = PinnedSend(context) if provider.keeps_conversations else context.upstream.send
            sent = send(
                provider, operation.path, headers, body, patience, beginning=beginning, sending=attempt, sender=key
            )
            # The connection pool watches the provider's own timeout without a timer for each request. Only an attempt
            # that has less time than that, because of the request's deadline, needs a timer of its own.
            has_less = patience.first_byte_seconds < provider.first_byte_timeout_seconds
            answer = await (_within(patience.first_byte_seconds, sent, attempt) if has_less else sent)
        except ProviderFault as fault:
            raise not_reached(fault, context.facts.model) from fault
        form = operation.form
        read_body = answer.body
        is_large = len(read_body) > LARGE_BYTES and not answer.is_stream
        if is_large:
            judgement, usage = await _in_thread(
                partial(read_answer, answer, read_body, form, beginning, context.bounds)
            )
        else:
            judgement, usage = read_answer(answer, read_body, form, beginning, context.bounds)
        if judgement.verdict is not IS_ANSWER:
            raise _no_answer(answer, judgement, context.facts.model)
        attempt.usage = usage
        if answer.is_stream or beginning is None:
            return answer
        # A stream was requested and its answer has come in one piece.
        return await _in_thread(partial(ReplayedAnswer, answer, form)) if is_large else ReplayedAnswer(answer, form)

    def _cache_member(self, cache: PromptCache) -> CacheMember | None:
        """Returns the member that keeps the organisation's cached prompts apart, where the provider takes one."""
        context = self._context
        return context.snapshot.salts.member(cache, context.operation, context.key.organisation, context.fields)

    @property
    def is_answer_needed(self) -> bool:
        """True while the caller is there. After that an answer may still be drained, but no other is tried for."""
        return not self._context.writer.has_left

    async def close(self, answer: Answer) -> None:
        """Closes an answer that lost a race."""
        answer.close()


def _in_thread(read: Callable[[], Read]) -> Awaitable[Read]:
    return asyncio.get_running_loop().run_in_executor(None, read)


async def _within(seconds: float, sent: Awaitable[Answer], sending: Sending) -> Answer:
    """Returns the answer to a request that is being sent. Raises ProviderFault, TimedOut among them."""
    try:
        async with asyncio.timeout(seconds):
            return await sent
    except TimeoutError:
        if not sending.was_sent:  # it has waited for a connection all the time: nothing reached the provider
            raise NoFreeConnection(f"none was free within the {seconds:.3g} s that were left") from None
        raise TimedOut(f"no answer within the {seconds:.3g} s that were left") from None
