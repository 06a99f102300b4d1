"""Follows one per-second endpoint: its workers as the platform reports them, what we sent there, and how fast it is.

No I/O: worker states come from the platform's `/health`, lenient, late or not at all; the rest is our own bookkeeping.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from vllm_service.routing.demand.counterfactual import Speeds
from vllm_service.routing.estimates import Line, Mean
from vllm_service.routing.profiles import EndpointProfile, LatencyTarget

STATES_LATE_SECONDS = 3.0  # how old `/health` is; a start is over this much before it is seen
_MOST_WORKERS = 1000  # of one endpoint; a report of more is nonsense, and would become lists of that length
_UTILISATION_SECONDS = 10.0
LONGER = 2.0  # an answer may well be this many times as long as expected
_ANSWER_TOKENS = 200.0
_LONGEST_GAP_SECONDS = 60.0  # between two looks, which are a second apart
_PATIENCE = 4.0  # cold starts after which a wake counts as failed


class Endpoint:
    """warm, starting: as last seen. target: how many workers were asked for. Prompt tokens that are sent and not read.

    margin: own answers are predicted within this share of the target. What is measured moves it: a late answer lowers
    it, timely ones raise it, so that about `miss_budget` of own answers are late.
    """

    def __init__(
        self, name: str, profile: EndpointProfile, usd_per_second: float, margin: float, miss_budget: float
    ) -> None:
        self.name, self.profile, self.usd_per_second = name, profile, usd_per_second
        self.warm = self.starting = self.target = 0
        self.is_managed = False
        self.in_flight = 0
        self.unread_tokens = 0.0
        self._reads_until: list[float] = []
        self.serving_since = 0.0  # as many workers as now
        self.cold_start = Mean(profile.cold_start_seconds, memory=20.0, trust=2.0)
        self.read_seconds = Line(profile.overhead_seconds, 1.0 / profile.prefill_tokens_per_second, 4000.0)
        self.token_seconds = Line(profile.decode_seconds, profile.decode_seconds_per_batch, float(profile.slots))
        self.margin, self._miss_budget = margin, miss_budget
        self.billed_worker_seconds = 0.0
        self._billed_at: float | None = None
        self._wakes: list[float] = []
        self._lowered_to, self._lowered_until = 0, 0.0
        self._reading = 0.0  # share of a worker's time that goes to prompts, of late
        self._reading_at = 0.0

    def is_configured_as(self, other: Endpoint) -> bool:
        """Whether what is known of the one holds for the other."""
        return (self.profile, self.usd_per_second) == (other.profile, other.usd_per_second)

    @property
    def serving(self) -> int:
        """Workers that take jobs: those seen warm, less those that were told to leave."""
        return min(self.warm, self.target) if self.is_managed else self.warm

    @property
    def share_paid_for_it(self) -> float:
        """Of the work that workers do: what those do that are paid because the router wants them."""
        serving = self.serving
        return max(0.0, 1.0 - self.profile.always_on_workers / serving) if serving else 1.0

    @property
    def prefill_tokens_per_second(self) -> float:
        """As measured."""
        return 1.0 / max(self.read_seconds.slope, 1e-7)

    def observe(self, health: Mapping[str, object] | None, now: float) -> None:
        """`/health`'s JSON: workers {idle, running, ready, initializing, ...}. None, or nonsense, changes nothing."""
        workers = health.get("workers") if isinstance(health, Mapping) else None
        if not isinstance(workers, Mapping):
            return
        idle, running, ready = (_count(workers, name) for name in ("idle", "running", "ready"))
        warm = max(idle + running, ready)
        self._bill(now)
        started = warm - self.warm
        while started > 0 and self._wakes:
            self.cold_start.add(max(0.0, now - STATES_LATE_SECONDS - self._wakes.pop(0)))
            started -= 1
        if now < self._lowered_until:
            warm = min(warm, self._lowered_to)  # the report is older than our order to leave
        self.warm, self.starting = warm, _count(workers, "initializing")
        self._mirror(now)
        if not self.starting and self._wakes and now - self._wakes[0] > self._patience():
            self._wakes.clear()

    def set_target(self, workers: int, now: float) -> None:
        """So many workers are wanted, with those that are always on."""
        self._bill(now)
        self.is_managed = True
        if workers < self.target:
            self.billed_worker_seconds += (self.target - workers) * self._leaving_seconds()
        if workers < self.warm:
            self.warm = self._lowered_to = workers
            self._lowered_until = now + STATES_LATE_SECONDS
        self._wakes.extend([now] * (workers - max(self.target, self.warm, self.profile.always_on_workers)))
        del self._wakes[workers:]
        self.target = workers
        self._mirror(now)

    def sent(self, prompt_tokens: int, now: float) -> None:
        """A request has gone there, with so many prompt tokens to read."""
        self.in_flight += 1
        self.unread_tokens += prompt_tokens
        until = self._reads_until
        if until:
            first = until.index(min(until))
            until[first] = max(until[first], now) + prompt_tokens * self.read_seconds.slope
        reading = prompt_tokens * self.read_seconds.slope / max(1, self.serving)
        self._reading = self._reading_share(now) + reading / _UTILISATION_SECONDS
        self._reading_at = now

    def read(self, prompt_tokens: int) -> None:
        """Its first token is there, or it ended without one."""
        self.unread_tokens = left = max(0.0, self.unread_tokens - prompt_tokens)
        if left <= 0.0:
            self._reads_until = [0.0] * len(self._reads_until)

    def left(self) -> None:
        """It has ended."""
        self.in_flight = max(0, self.in_flight - 1)

    def judged(self, in_time: bool) -> None:
        """An own answer was in time, or not."""
        step = 0.03
        self.margin += step * self._miss_budget if in_time else -step * (1.0 - self._miss_budget)
        self.margin = min(0.97, max(0.4, self.margin))

    def first_token_seconds(self, prompt_tokens: int, now: float) -> float:
        """Expected wait for the first token; infinite while no worker serves or no slot is free.

        The platform's queue is mirrored: a job goes to the worker that will be the first to have read its prompts.
        """
        until = self._reads_until
        if not until or self.in_flight >= len(until) * self.profile.slots:
            return float("inf")
        line = self.read_seconds
        return max(0.0, min(until) - now) + line.intercept + prompt_tokens * line.slope

    def accepts(
        self, target: LatencyTarget, prompt_tokens: int, cached_tokens: int, completion_tokens: float, now: float
    ) -> bool:
        """Whether the router should send such a request here: a worker serves, and is expected to be in time.

        First token and end of the answer count, by the margin.
        """
        if self.serving <= 0:
            return False
        allowed = target.first_token_seconds(prompt_tokens) * self.margin
        wait = self.first_token_seconds(prompt_tokens - cached_tokens, now)
        if wait > allowed:
            return False
        batch = (self.in_flight + 1.0) / self.serving
        token = self.token_seconds.at(batch) / (1.0 - self.profile.prefill_share * min(1.0, self._reading_share(now)))
        late_per_token = token - target.seconds_per_output_token * self.margin
        return wait + LONGER * completion_tokens * late_per_token <= allowed

    def speeds(self) -> Speeds:
        """As measured."""
        read, token, profile = self.read_seconds, self.token_seconds, self.profile
        return Speeds(
            read.intercept,
            read.slope,
            token.intercept,
            token.slope,
            profile.prefill_share,
            profile.slots,
            self.margin,
        )

    def work_seconds(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Of a full worker, that such a request takes."""
        profile = self.profile
        reading = prompt_tokens * self.read_seconds.slope
        answering = completion_tokens * self.token_seconds.at(profile.slots) / profile.slots
        return max(reading, profile.prefill_share * reading + answering)

    def billed_usd(self, now: float) -> float:
        """So far, by our own count of workers and seconds: an estimate of the platform's bill."""
        self._bill(now)
        return self.billed_worker_seconds * self.usd_per_second

    def measured_answer(self, first_token_seconds: float, read_tokens: float) -> None:
        """A first token came after this long, with no other prompt in its way; so many tokens of its own were read."""
        self.read_seconds.add(read_tokens, first_token_seconds)

    def measured_token(self, seconds: float, now: float) -> None:
        """Tokens came at this pace, in the batch there is now."""
        batch = max(1.0, self.in_flight / max(1, self.serving))
        undisturbed = 1.0 - self.profile.prefill_share * min(1.0, self._reading_share(now))
        self.token_seconds.add(batch, seconds * undisturbed)

    def _mirror(self, now: float) -> None:
        """As many queues as workers serve; who leaves is the one with the least to do."""
        until, serving = sorted(self._reads_until, reverse=True), self.serving
        if serving != len(until):
            self.serving_since = now
        self._reads_until = until[:serving] + [now] * (serving - len(until))

    def _reading_share(self, now: float) -> float:
        return self._reading * max(0.0, 1.0 - (now - self._reading_at) / _UTILISATION_SECONDS)

    def _leaving_seconds(self) -> float:
        """That a worker is billed after it was told to leave: what it still answers, and its idle time-out."""
        answering = self.token_seconds.at(self.in_flight / max(1, self.target)) * _ANSWER_TOKENS
        return self.profile.idle_timeout_seconds + (answering if self.in_flight else 0.0)

    def _patience(self) -> float:
        return _PATIENCE * self.cold_start.value + 60.0

    def _bill(self, now: float) -> None:
        # More than were asked for are not our doing: another replica's, or always on. Fewer, and not all have come.
        asked = max(0, min(self.target, self.warm + len(self._wakes)) - self.profile.always_on_workers)
        workers = asked if self.is_managed else self.warm + self.starting
        if self._billed_at is not None:
            # Who did not look for longer was stopped, or its machine slept; the idle time-out has ended the workers.
            self.billed_worker_seconds += workers * min(max(0.0, now - self._billed_at), _LONGEST_GAP_SECONDS)
        self._billed_at = now


def _count(workers: Mapping[str, object], name: str) -> int:
    value = workers.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return 0
    return min(max(0, int(value)), _MOST_WORKERS)
