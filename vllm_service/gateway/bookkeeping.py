"""The money of a request: limits are reserved before it is sent, and its use is counted, settled and recorded."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from msgspec.structs import replace

from vllm_service.domain.cost_basis import EXPECTED
from vllm_service.domain.pricing import MOST_PICOUSD
from vllm_service.domain.requests import CACHED, COMPLETED, Outcome, RequestRecord
from vllm_service.domain.usage import ASSUMED_COMPLETION_TOKENS
from vllm_service.gateway.context import RequestContext
from vllm_service.gateway.token_counting import TokenCounting
from vllm_service.logs import source_location
from vllm_service.resilience.failures import CutAttempt
from vllm_service.resilience.hedging import Hedging
from vllm_service.storage.protocol import Quotas, Reservation

_log = logging.getLogger(__name__)
#: Of one provider's implausible counts the first is logged, and then one in so many.
LOGGED_EVERY = 1000


class Bookkeeping:
    """Reserves, settles and records. recorders: called with each row; the ledger's `record` comes first.

    record_loss: called with the rows of attempts whose answers are not used; None: the first recorder. hedging: earns
    its budget here.
    """

    def __init__(
        self,
        quotas: Quotas,
        recorders: Sequence[Callable[[RequestRecord], None]],
        record_loss: Callable[[RequestRecord], None] | None,
        hedging: Hedging | None,
    ) -> None:
        self._quotas = quotas
        self._recorders = tuple(recorders)
        self._record_loss = record_loss or self._recorders[0]
        self._hedging = hedging
        self._counting = TokenCounting()
        #: How often a provider has reported what cannot be, by its configured name.
        self._implausible: dict[str, int] = {}

    def reserve(self, context: RequestContext) -> Awaitable[Reservation]:
        """Reserves the most that the request can take of its limits. Raises errors.RateLimited when it is awaited.

        Which provider answers is not known yet, so tokens are priced at the dearest of them. Dollars are reserved for
        the longest possible answer. Tokens are reserved for the caller's bound; without one for a usual answer, since
        a whole context for each request would leave a day's tokens to a few of them.
        """
        bounds = context.bounds
        model = context.model
        prompt = bounds.prompt_tokens
        tokens = bounds.answer_tokens
        longest = bounds.longest_answer
        if tokens is None or longest is None:
            usual = ASSUMED_COMPLETION_TOKENS * bounds.choices
            longest = usual if longest is None else longest
            tokens = min(longest, usual)
        cost = prompt * model.dearest_input + longest * model.dearest_output
        cost = cost if cost < MOST_PICOUSD else MOST_PICOUSD
        caller = context.request.caller
        address = None if caller is None else caller.address
        return self._quotas.reserve(context.key, address, prompt + tokens, cost, context.started_at)

    async def count_refused(self, context: RequestContext) -> None:
        """Counts a request that is not valid in its key's minute and its address's second: reading it costs as well.

        Raises errors.RateLimited where these are used up, so that a flood gets no other answer than valid requests do.
        """
        caller = context.request.caller
        address = None if caller is None else caller.address
        reservation = await self._quotas.reserve(context.key, address, 0, 0, context.started_at)
        await reservation.release()

    async def close(self, context: RequestContext) -> None:
        """Records the row and settles the reservation, once. The caller has the answer, so errors are only logged."""
        if context.usage is None and context.cuts:
            context.count_cut()
        if (
            context.answer_text is not None
            and context.usage is not None
            and context.usage.estimated
            and context.model.tokenizer
        ):
            await self._counting.count(context, context.model.tokenizer, context.answer_text)
        if context.usage is not None and context.usage.implausible and context.step is not None:
            self._warn(context.step.provider, context.request_id)
        # The rows come first: recording never waits, so nothing can come between a row and its settlement.
        self._record(context)
        try:
            if context.reservation is not None:
                await self._settled(context, context.reservation)
        except Exception as error:
            _log.error("a reservation was not settled; its lease will expire: %s", source_location(error))

    def _record(self, context: RequestContext) -> None:
        row = context.record(time.monotonic())
        recorders = self._recorders if context.trace is None else (*self._recorders, context.trace.end)
        for record in recorders:  # the ledger is the first
            _record(record, row)
        for cut in context.cuts:
            _record(self._record_loss, _row_of(cut, row))
        if context.plan is not None and context.plan.demands:
            context.plan.ended(is_answered=context.outcome is COMPLETED)

    def _settled(self, context: RequestContext, reservation: Reservation) -> Awaitable[None]:
        """Replaces the reservation by what the request used, as its rows have it.

        Of a request of which nothing was sent, the day's count is given back too. The cost of the answer alone earns
        budget for hedges: otherwise hedges would pay for hedges.
        """
        if context.outcome is CACHED:
            return reservation.settle(0, 0)
        tokens = spent = 0
        if context.usage is not None:
            tokens = context.usage.total_tokens
            spent = context.cost_picousd or 0
            if self._hedging is not None:
                self._hedging.budget_of(context.key.organisation).earn(spent)
        elif not context.was_sent:
            return reservation.release()
        for cut in context.cuts:
            tokens += cut.usage.total_tokens
            spent += cut.cost_picousd or 0
        return reservation.settle(tokens, spent)

    def _warn(self, provider: str, request_id: str) -> None:
        """Logs that a provider has reported what cannot be. The counts are left out: they may have any length."""
        before = self._implausible.get(provider, 0)
        self._implausible[provider] = before + 1
        if before % LOGGED_EVERY == 0:
            _log.warning(
                "%s reported tokens that request %s cannot have used: they are bounded or estimated, and the row has "
                "usage_implausible; %d such reports since the start",
                provider,
                request_id,
                before + 1,
            )


def _row_of(cut: CutAttempt, row: RequestRecord) -> RequestRecord:
    """Returns the row of an attempt whose answer is not used: the request's id with `/hedge` or `/cut`, cancelled.

    row: the request's own. docs/ledger.md describes both.
    """
    return replace(
        row,
        request_id=f"{row.request_id}/{'hedge' if cut.is_beaten else 'cut'}",
        outcome=Outcome.CANCELLED,
        status=499,
        provider=cut.step.provider,
        upstream_model=cut.step.model,
        usage=cut.usage,
        cost_picousd=cut.cost_picousd,
        cost_basis=None if cut.cost_picousd is None else EXPECTED,
        baseline_picousd=None,
        ttft_ms=None,
        attempts=0,
        error_code=None,
        route_reason="hedge: another provider began first" if cut.is_beaten else "cut: no answer came from here",
    )


def _record(record: Callable[[RequestRecord], None], row: RequestRecord) -> None:
    """Calls one recorder. Its error is logged, so that the other recorders are called all the same."""
    try:
        record(row)
    except Exception as error:
        _log.error("request %s was not recorded everywhere: %s", row.request_id, source_location(error))
