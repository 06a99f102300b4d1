"""What the router learns from a request at a place, from being sent to its end."""

from __future__ import annotations

import msgspec

from vllm_service.domain.requests import RequestFacts
from vllm_service.domain.usage import Usage
from vllm_service.routing.candidates import Candidate
from vllm_service.routing.capacity import Endpoint
from vllm_service.routing.model_route import Route


class ObservedAttempt(msgspec.Struct):
    """A plan.AttemptObserver. Two of them may be open at one offer, or at two offers of one provider: a hedge.

    first_token_at: 0 until it has come. follows: the place has lately read a prompt that begins as this one.

    Of an endpoint, to_read: prompt tokens that it is expected to have to read; alone: no prompt was waiting there.
    """

    route: Route
    place: Candidate
    facts: RequestFacts
    began: float
    follows: bool
    to_read: int = 0
    alone: bool = False
    first_token_at: float = 0.0
    is_over: bool = False

    @classmethod
    def sent(cls, route: Route, place: Candidate, facts: RequestFacts, now: float) -> ObservedAttempt:
        """The request has been sent to this place."""
        attempt = cls(route, place, facts, now, place.follows(facts.prefix, now))
        place.in_flight += 1
        if place.endpoint is not None:
            attempt.to_read = facts.prompt_tokens - place.cached_tokens(facts, now)
            attempt.alone = place.endpoint.unread_tokens <= 0
            place.endpoint.sent(attempt.to_read, now)
        return attempt

    def first_token(self, now: float) -> None:
        """See plan.AttemptObserver. A whole answer comes with its last token: its first byte says nothing of speeds."""
        if self.first_token_at or self.is_over or not self.facts.stream:
            return
        place = self.place
        waited = now - self.began
        self.first_token_at = now
        place.first_token_seconds.add(waited)
        if place.endpoint is not None:
            place.endpoint.read(self.to_read)
            if self.alone and not self.follows:
                place.endpoint.measured_answer(waited, self.facts.prompt_tokens)

    def succeeded(self, usage: Usage | None, now: float) -> None:
        """See plan.AttemptObserver."""
        if self.is_over:
            return
        self.is_over = True
        place, facts = self.place, self.facts
        place.in_flight -= 1
        if place.endpoint is not None:
            self._own_finished(place.endpoint, usage, now)
        elif self.first_token_at and usage is not None and usage.completion_tokens > 1:
            place.token_seconds.add((now - self.first_token_at) / (usage.completion_tokens - 1))
        if usage is not None:
            self.route.lengths.add(facts.key_id, facts.operation, usage.completion_tokens)
            if usage.prompt_tokens > 0 and not usage.estimated and not place.has_plain_price:
                place.prompt_cache.add(facts.prefix, self.follows, usage.cached_tokens / usage.prompt_tokens, now)

    def failed(self, status: int, retry_after_seconds: float | None, now: float) -> None:
        """See plan.AttemptObserver."""
        if self.is_over:
            return
        self.abandoned(now)
        if status == 429 and retry_after_seconds:
            self.place.late_until = now + retry_after_seconds

    def abandoned(self, now: float) -> None:
        """See plan.AttemptObserver."""
        if self.is_over:
            return
        self.is_over = True
        place = self.place
        place.in_flight -= 1
        if place.endpoint is not None:
            if not self.first_token_at:
                place.endpoint.read(self.to_read)
            place.endpoint.left()

    def _own_finished(self, endpoint: Endpoint, usage: Usage | None, ended: float) -> None:
        began, first_token_at, target = self.began, self.first_token_at, self.route.target
        if not first_token_at:
            endpoint.read(self.to_read)
        if usage is not None:
            prompt, tokens = self.facts.prompt_tokens, usage.completion_tokens
            if first_token_at and self.alone and self.follows and usage.prompt_tokens > 0:
                read = prompt * (1.0 - usage.cached_tokens / usage.prompt_tokens)
                endpoint.measured_answer(first_token_at - began, read)
            if first_token_at and tokens > 1:
                endpoint.measured_token((ended - first_token_at) / (tokens - 1), ended)
            allowed = target.first_token_seconds(prompt)
            in_time = not first_token_at or first_token_at - began <= allowed
            in_time = in_time and ended - began <= allowed + target.seconds_per_output_token * tokens
            endpoint.judged(in_time)
        endpoint.left()
