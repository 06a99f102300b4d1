"""Computes one worker of the own endpoint from change to change of its batch: no event per token.

Prompts are read one after the other at the prefill speed. All answers advance together: a token takes
`decode_seconds + decode_seconds_per_batch x batch`, and while a prompt is being read only `1 - prefill_share` of that
speed is left. `progress` is the number of tokens that an answer which was there all along would have got; an answer is
complete when progress has passed its own start by its length. So a change of the speed changes one number, and not
every answer's end. The first token comes with the end of the prefill.
"""

from __future__ import annotations

import heapq
from collections import deque

from vllm_service.routing.profiles import EndpointProfile

NEVER = float("inf")


class Worker:
    """One worker, from its start to its stop."""

    __slots__ = (
        "_advanced_at", "_answers", "_itl0", "_itl1", "_prefill_ends", "_prefill_speed", "_progress", "_prompts",
        "_rate", "_slowed", "billed_from", "draining", "idle_since", "in_flight", "next_event", "number", "reads_until",
        "ready_at",
    )  # fmt: skip

    def __init__(self, number: int, started_at: float, ready_at: float, profile: EndpointProfile) -> None:
        self.number = number
        self.billed_from = started_at
        self.ready_at = ready_at
        self.idle_since = ready_at
        self.draining = False
        #: Requests in its slots.
        self.in_flight = 0
        #: When `step` has something to do.
        self.next_event = NEVER
        #: When its prompts will have been read.
        self.reads_until = ready_at
        self._prefill_speed = profile.prefill_tokens_per_second
        self._itl0 = profile.decode_seconds
        self._itl1 = profile.decode_seconds_per_batch
        self._slowed = 1.0 - profile.prefill_share
        #: (request, prompt tokens, completion tokens); the first is being read.
        self._prompts: deque[tuple[int, float, float]] = deque()
        #: A heap of (progress at which the answer is complete, request).
        self._answers: list[tuple[float, int]] = []
        self._prefill_ends = NEVER
        #: Tokens, as it was at _advanced_at; it grows by _rate per second.
        self._progress = 0.0
        self._advanced_at = started_at
        self._rate = 0.0

    def add(self, request: int, prompt_tokens: float, completion_tokens: float, now: float) -> None:
        """Takes a request into a slot; its prompt waits for those before it."""
        self.in_flight += 1
        self.reads_until = max(self.reads_until, now) + prompt_tokens / self._prefill_speed
        self._prompts.append((request, prompt_tokens, completion_tokens))
        if self._prefill_ends == NEVER:
            self._advance(now)
            self._prefill_ends = now + prompt_tokens / self._prefill_speed
            self._plan(now)

    def step(self) -> tuple[int, bool]:
        """Does what is due at `next_event`; returns (request, True) at its first token, (request, False) at its end."""
        now = self.next_event
        self._advance(now)
        if self._prefill_ends <= now:
            request, _, completion_tokens = self._prompts.popleft()
            heapq.heappush(self._answers, (self._progress + completion_tokens - 1.0, request))
            self._prefill_ends = now + self._prompts[0][1] / self._prefill_speed if self._prompts else NEVER
            self._plan(now)
            return request, True
        _, request = heapq.heappop(self._answers)
        self.in_flight -= 1
        if not self.in_flight:
            self.idle_since = now
        self._plan(now)
        return request, False

    def _advance(self, now: float) -> None:
        self._progress += self._rate * (now - self._advanced_at)
        self._advanced_at = now

    def _plan(self, now: float) -> None:
        answers = self._answers
        if not answers:
            self._rate = 0.0
            self._progress = 0.0  # no answer counts from it, so it need not grow for ever
            self.next_event = self._prefill_ends
            return
        rate = 1.0 / (self._itl0 + self._itl1 * len(answers))
        if self._prefill_ends != NEVER:
            rate *= self._slowed
        self._rate = rate
        ends = now + max(0.0, answers[0][0] - self._progress) / rate
        self.next_event = ends if ends < self._prefill_ends else self._prefill_ends
