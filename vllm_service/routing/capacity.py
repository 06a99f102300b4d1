"""Follows one per-second endpoint: its workers as the platform reports them, what we sent there, and how fast it is.

No I/O: worker states come from the platform's `/health` or its list of workers, lenient, late or not at all; the rest
is our own bookkeeping.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from vllm_service.domain.plan import ListedWorkers
from vllm_service.routing.demand.counterfactual import Speeds
from vllm_service.routing.estimates import Line, Mean
from vllm_service.routing.profiles import EndpointProfile, LatencyTarget

#: How old the states in `/health` are: a start is over this much before it is seen.
STATES_LATE_SECONDS = 3.0
#: A report of more workers than this is nonsense, and would become lists of that length.
_MOST_WORKERS = 1000
#: The span over which the share of time that goes to prompts is averaged.
_UTILISATION_SECONDS = 10.0
#: An answer may be this many times as long as expected and still has to end in time.
LONGER = 2.0
#: The assumed length of the answers that a stopping worker still has to end; AnswerLengths starts at the same guess.
_ANSWER_TOKENS = 200.0
#: The longest span that is billed at once. Looks are a second apart; after a longer gap the process had stood still.
_LONGEST_GAP_SECONDS = 60.0
#: In cold starts: a wake whose worker has not come by then, and a minute more, counts as failed.
_PATIENCE = 4.0
#: How far one answer moves the margin.
_MARGIN_STEP = 0.03
#: The margin stays within these, whatever is measured.
_LEAST_MARGIN = 0.4
_MOST_MARGIN = 0.97


class Endpoint:
    """One endpoint's workers, load and measured speeds."""

    def __init__(
        self, name: str, profile: EndpointProfile, usd_per_second: float, margin: float, miss_budget: float
    ) -> None:
        self.name = name
        self.profile = profile
        #: Of one worker, by the GPUs that the workers have; at first, and where these are not known, as configured.
        self.usd_per_second = usd_per_second
        self._configured_usd_per_second = usd_per_second
        #: Workers as last reported. Throttled ones wait for a GPU: they are not billed, and not waited for.
        self.warm = 0
        self.starting = 0
        self.throttled = 0
        #: How many workers the router last wanted, always-on ones included.
        self.target = 0
        #: Whether `set_target` was ever called. Until then, all workers that are seen count as spending.
        self.is_managed = False
        self.in_flight = 0
        #: Prompt tokens that were sent and whose first token has not come.
        self.unread_tokens = 0.0
        #: Per serving worker: when it will have read its prompts. The order means nothing.
        self._reads_until: list[float] = []
        #: Since when there have been as many workers as now: a prompt cache is only as old as its worker.
        self.serving_since = 0.0
        # Cold starts are rare, so the guess weighs as two of them and twenty are remembered.
        self.cold_start = Mean(profile.cold_start_seconds, memory=20.0, trust=2.0)
        #: Seconds to the first token by prompt tokens; the guess is two points, at 0 and at 4000 tokens.
        self.read_seconds = Line(profile.overhead_seconds, 1.0 / profile.prefill_tokens_per_second, 4000.0)
        #: Seconds per output token by answers in the batch.
        self.token_seconds = Line(profile.decode_seconds, profile.decode_seconds_per_batch, float(profile.slots))
        #: Own answers are predicted within this share of the target; `judged` moves it.
        self.margin = margin
        self._miss_budget = miss_budget
        self.billed_worker_seconds = 0.0
        #: What was billed at earlier prices, and how many of the seconds that was.
        self._earlier_usd = 0.0
        self._earlier_seconds = 0.0
        self._billed_at: float | None = None
        #: When each wake that has not brought its worker yet was ordered, the oldest first.
        self._wakes: list[float] = []
        #: Until then, a report of more than `_lowered_to` warm workers is older than the order to stop them.
        self._lowered_until = 0.0
        self._lowered_to = 0
        #: The share of one worker's time that goes to prompts, as it was at `_reading_at`; it decays from there.
        self._reading = 0.0
        self._reading_at = 0.0

    def is_configured_as(self, other: Endpoint) -> bool:
        """Returns whether what was learned of the other endpoint holds for this one."""
        return (self.profile, self._configured_usd_per_second) == (other.profile, other._configured_usd_per_second)

    @property
    def serving(self) -> int:
        """Workers that take jobs: those seen warm, less those that are to stop."""
        return min(self.warm, self.target) if self.is_managed else self.warm

    @property
    def share_paid_for_it(self) -> float:
        """The share of the serving workers that is paid because of the router's target; the rest is always on."""
        serving = self.serving
        return max(0.0, 1.0 - self.profile.always_on_workers / serving) if serving else 1.0

    @property
    def prefill_tokens_per_second(self) -> float:
        """The measured speed at which one worker reads prompts."""
        return 1.0 / max(self.read_seconds.slope, 1e-7)

    def observe(self, health: Mapping[str, object] | None, now: float, listed: ListedWorkers | None = None) -> None:
        """Reads `/health`: workers {idle, running, ready, initializing, ...}. None, or nonsense, changes nothing.

        listed: what the platform's list of the workers says besides. Cold starts are then measured from it.
        """
        workers = health.get("workers") if isinstance(health, Mapping) else None
        if not isinstance(workers, Mapping):
            return
        idle, running, ready = (_count(workers, name) for name in ("idle", "running", "ready"))
        warm = max(idle + running, ready)
        self._bill(now)
        if listed is not None and listed.usd_per_second is not None:
            self._set_price(listed.usd_per_second)
        self._learn_starts(warm - self.warm, now, None if listed is None else listed.cold_starts_seconds)
        if now < self._lowered_until:
            warm = min(warm, self._lowered_to)  # the report is older than the order to stop them
        self.warm, self.starting = warm, _count(workers, "initializing")
        self.throttled = _count(workers, "throttled")
        self._mirror(now)
        if not self.starting and self._wakes and now - self._wakes[0] > self._patience():
            self._wakes.clear()

    def set_target(self, workers: int, now: float) -> None:
        """Sets how many workers are wanted, always-on ones included."""
        self._bill(now)
        self.is_managed = True
        if workers < self.target:
            self.billed_worker_seconds += (self.target - workers) * self._leaving_seconds()
        if workers < self.warm:
            self.warm = workers
            self._lowered_to = workers
            self._lowered_until = now + STATES_LATE_SECONDS
        # What is already warm, ordered or always on needs no wake.
        self._wakes.extend([now] * (workers - max(self.target, self.warm, self.profile.always_on_workers)))
        del self._wakes[workers:]
        self.target = workers
        self._mirror(now)

    def sent(self, prompt_tokens: int, now: float) -> None:
        """Counts a request that has been sent there, with so many prompt tokens to read."""
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
        """Takes a request's prompt off the unread ones: its first token has come, or it ended without one."""
        self.unread_tokens = left = max(0.0, self.unread_tokens - prompt_tokens)
        if left <= 0.0:
            # Whatever was predicted, nothing is left to read: errors of the mirrored queues end here.
            self._reads_until = [0.0] * len(self._reads_until)

    def left(self) -> None:
        """Takes a request that has ended off those in flight."""
        self.in_flight = max(0, self.in_flight - 1)

    def judged(self, in_time: bool) -> None:
        """Moves the margin by one own answer: a late one lowers it, timely ones raise it.

        Both steps cancel out when a share of `miss_budget` is late, so that is where the margin settles.
        """
        self.margin += _MARGIN_STEP * self._miss_budget if in_time else -_MARGIN_STEP * (1.0 - self._miss_budget)
        self.margin = min(_MOST_MARGIN, max(_LEAST_MARGIN, self.margin))

    def first_token_seconds(self, prompt_tokens: int, now: float) -> float:
        """Returns the expected wait for the first token; infinite while no worker serves or no slot is free.

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
        """Returns whether such a request should go here: a worker serves, and is expected to be in time.

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
        """Returns the measured speeds of one worker, for the counterfactual ones."""
        read = self.read_seconds
        token = self.token_seconds
        profile = self.profile
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
        """Returns the seconds of a full worker that such a request takes.

        In a full batch each answer pays for its share of a token's time. A prompt slows the answers by `prefill_share`
        and leaves the rest of its time to them; but a worker reads one prompt at a time, so never less than that.
        """
        profile = self.profile
        reading = prompt_tokens * self.read_seconds.slope
        answering = completion_tokens * self.token_seconds.at(profile.slots) / profile.slots
        return max(reading, profile.prefill_share * reading + answering)

    def billed_usd(self, now: float) -> float:
        """Returns the dollars so far by our own count of workers and seconds: an estimate of the platform's bill."""
        self._bill(now)
        return self._earlier_usd + (self.billed_worker_seconds - self._earlier_seconds) * self.usd_per_second

    def measured_answer(self, first_token_seconds: float, read_tokens: float) -> None:
        """Learns from a first token that had no other prompt before it: so many tokens were read in so long."""
        self.read_seconds.add(read_tokens, first_token_seconds)

    def measured_token(self, seconds: float, now: float) -> None:
        """Learns from an answer's seconds per token, in the batch that there is now."""
        batch = max(1.0, self.in_flight / max(1, self.serving))
        undisturbed = 1.0 - self.profile.prefill_share * min(1.0, self._reading_share(now))
        self.token_seconds.add(batch, seconds * undisturbed)

    def _learn_starts(self, started: int, now: float, listed_seconds: tuple[float, ...] | None) -> None:
        """Takes workers that are warm now off the wakes, and learns how long a start takes.

        listed_seconds: as the platform's list has them; None: it is measured from the order, so late by the report.
        """
        while started > 0 and self._wakes:
            ordered_at = self._wakes.pop(0)
            if listed_seconds is None:
                self.cold_start.add(max(0.0, now - STATES_LATE_SECONDS - ordered_at))
            started -= 1
        for seconds in listed_seconds or ():
            self.cold_start.add(seconds)

    def _set_price(self, usd_per_second: float) -> None:
        if usd_per_second != self.usd_per_second:
            self._earlier_usd += (self.billed_worker_seconds - self._earlier_seconds) * self.usd_per_second
            self._earlier_seconds = self.billed_worker_seconds
            self.usd_per_second = usd_per_second

    def _mirror(self, now: float) -> None:
        """Keeps as many queues as workers serve; the platform stops the workers with the least to do."""
        until = sorted(self._reads_until, reverse=True)
        serving = self.serving
        if serving != len(until):
            self.serving_since = now
        self._reads_until = until[:serving] + [now] * (serving - len(until))

    def _reading_share(self, now: float) -> float:
        # Linear decay, as in counterfactual.py: after the whole span nothing is left.
        return self._reading * max(0.0, 1.0 - (now - self._reading_at) / _UTILISATION_SECONDS)

    def _leaving_seconds(self) -> float:
        """Returns how long a stopping worker is still billed: what it still answers, and its idle timeout."""
        answering = self.token_seconds.at(self.in_flight / max(1, self.target)) * _ANSWER_TOKENS
        return self.profile.idle_timeout_seconds + (answering if self.in_flight else 0.0)

    def _patience(self) -> float:
        return _PATIENCE * self.cold_start.value + 60.0

    def _bill(self, now: float) -> None:
        # Workers beyond the target are another replica's or always on, and not this router's spending. Where there are
        # fewer, not all that were ordered have come, and what never comes is not billed.
        coming = max(0, len(self._wakes) - self.throttled)
        ordered = max(0, min(self.target, self.warm + coming) - self.profile.always_on_workers)
        workers = ordered if self.is_managed else self.warm + self.starting
        if self._billed_at is not None:
            # After a longer gap the process was stopped or its machine slept; the idle timeout has ended the workers.
            self.billed_worker_seconds += workers * min(max(0.0, now - self._billed_at), _LONGEST_GAP_SECONDS)
        self._billed_at = now


def _count(workers: Mapping[str, object], name: str) -> int:
    value = workers.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return 0
    return min(max(0, int(value)), _MOST_WORKERS)
