"""What people do without a cost-aware router: seven policies to compare with, one dict."""

from __future__ import annotations

from collections.abc import Callable

from vllm_service.simulation.endpoint import Endpoint
from vllm_service.simulation.replay import HostedAnswer, Replay

_OWN_SHARE = 0.8  # of split_80_20
_SPILL_MARGIN = 0.7  # active_spill sends to its worker what it predicts within this share of the target
_PATIENCE = 0.5  # nominal_fallback waits for this share of the first-token target
_PROBES, _MEMORY = 0.02, 0.95  # latency: share of requests that try the other side; weight of what was seen before


class Baseline:
    """Hosted providers in the scenario's order, an endpoint that the platform scales by queue delay from zero."""

    def begin(self, replay: Replay) -> Endpoint:
        """An endpoint with RunPod's own scaling."""
        self.replay = replay
        self.order = tuple(range(len(replay.scenario.hosted)))
        return self._endpoint(replay)

    def arrived(self, request: int, now: float) -> None:
        """To the first hosted provider that takes it."""
        self.hosted(request)

    def first_token(self, request: int, now: float) -> None:
        """Nothing to learn."""

    def ended(self, request: int, now: float) -> None:
        """Nothing to learn."""

    def close(self, now: float) -> None:
        """Idle workers leave."""
        self.replay.endpoint.close(now)

    def hosted(self, request: int) -> HostedAnswer:
        """Sends it to hosted providers in order."""
        answer = self.replay.ask_hosted(request, self.order)
        self.replay.book_hosted(request, answer)
        return answer

    def _endpoint(self, replay: Replay) -> Endpoint:
        return Endpoint(replay.scenario.own, replay.draws)


class AllOwn(Baseline):
    """Everything to the own endpoint, which scales by queue delay."""

    def arrived(self, request: int, now: float) -> None:
        """Into the endpoint's queue."""
        self.replay.send_own(request)


class Split(Baseline):
    """80 % to the own endpoint, drawn per request; what frameworks call weighted routing."""

    def arrived(self, request: int, now: float) -> None:
        """By its draw."""
        if self.replay.draws.choice[request] < _OWN_SHARE:
            self.replay.send_own(request)
        else:
            self.hosted(request)


class NominalFallback(Baseline):
    """The lowest price on paper first. A late first token means falling back to hosted, and paying twice.

    The own price on paper is that of a worker which is always full: dollars per second by tokens per second.
    """

    def begin(self, replay: Replay) -> Endpoint:
        """Compares prices for the trace's mean request."""
        prompt = float(replay.trace.prompt_tokens.mean())
        completion = float(replay.trace.completion_tokens.mean())
        own = replay.scenario.own
        seconds = prompt / own.profile.prefill_tokens_per_second + completion / own.profile.decode_tokens_per_second
        hosted = [place.usd(prompt, completion) for place in replay.scenario.hosted]
        self._own_first = seconds * own.usd_per_second < min(hosted)
        endpoint = super().begin(replay)
        self.order = tuple(sorted(self.order, key=lambda place: hosted[place]))
        return endpoint

    def arrived(self, request: int, now: float) -> None:
        """To the cheaper side on paper."""
        if not self._own_first:
            self.hosted(request)
            return
        self.replay.send_own(request)
        patience = _PATIENCE * self.replay.scenario.target.first_token_seconds(self.replay.prompts[request])
        self.replay.at(now + patience, self._give_up, request)

    def _give_up(self, request: int) -> None:
        if not self.replay.first_token_at[request]:
            self.hosted(request)  # the own endpoint works on: its answer comes to nobody


class Latency(Baseline):
    """To the side whose last answers came sooner, with probes of the other: they wake workers, and keep them awake."""

    def begin(self, replay: Replay) -> Endpoint:
        """Nothing is known of either side."""
        self._seconds = {True: 0.0, False: 0.0}
        return super().begin(replay)

    def arrived(self, request: int, now: float) -> None:
        """The faster side, or a probe."""
        own = self._seconds[True] <= self._seconds[False]
        if self.replay.draws.choice[request] < _PROBES:
            own = not own
        if own:
            self.replay.send_own(request)
        else:
            answer = self.hosted(request)
            self.replay.at(answer.ends_at, self._saw, False, answer.ends_at - now)

    def ended(self, request: int, now: float) -> None:
        """An own answer was this fast."""
        self._saw(True, self.replay.ends_at[request] - self.replay.arrivals[request])

    def _saw(self, own: bool, seconds: float) -> None:
        known = self._seconds[own]
        self._seconds[own] = _MEMORY * known + (1 - _MEMORY) * seconds if known else seconds


class ActiveSpill(Baseline):
    """One worker that is always on; what it would answer late goes to hosted providers."""

    def begin(self, replay: Replay) -> Endpoint:
        """The worker starts with the trace."""
        self._unread_tokens = 0.0
        endpoint = super().begin(replay)
        endpoint.open(0.0)
        return endpoint

    def arrived(self, request: int, now: float) -> None:
        """To the worker if it is warm, has a slot, and is predicted to be in time."""
        replay, profile = self.replay, self.replay.scenario.own.profile
        prompt = replay.prompts[request]
        seconds = (self._unread_tokens + prompt) / profile.prefill_tokens_per_second + profile.overhead_seconds
        target = replay.scenario.target.first_token_seconds(prompt)
        if replay.endpoint.free_slots() and seconds <= _SPILL_MARGIN * target:
            self._unread_tokens += prompt
            replay.send_own(request)
        else:
            self.hosted(request)

    def first_token(self, request: int, now: float) -> None:
        """Its prompt has been read."""
        self._unread_tokens -= self.replay.prompts[request]

    def _endpoint(self, replay: Replay) -> Endpoint:
        return Endpoint(replay.scenario.own, replay.draws, least=1, most=1)


BASELINES: dict[str, Callable[[], Baseline]] = {
    "all_hosted": Baseline,
    "all_own": AllOwn,
    "split_80_20": Split,
    "nominal_fallback": NominalFallback,
    "latency": Latency,
    "active_spill": ActiveSpill,
}
