"""The policies that people use without a cost-aware router, to compare with: one dict."""

from __future__ import annotations

from collections.abc import Callable

from vllm_service.simulation.endpoint import Endpoint
from vllm_service.simulation.replay import HostedAnswer, Replay

#: split_80_20's share of requests for the own endpoint.
_OWN_SHARE = 0.8
#: active_spill sends to its worker what it predicts within this share of the target.
_SPILL_MARGIN = 0.7
#: nominal_fallback waits for this share of the first-token target.
_PATIENCE = 0.5
#: latency's share of requests that try the other side.
_PROBES = 0.02
#: latency's weight of what was measured before.
_MEMORY = 0.95


class Baseline:
    """Sends everything to hosted providers in the scenario's order; the platform scales the endpoint from zero."""

    def begin(self, replay: Replay) -> Endpoint:
        """Returns an endpoint with RunPod's own scaling."""
        self.replay = replay
        self.order = tuple(range(len(replay.scenario.hosted)))
        return self._endpoint(replay)

    def arrived(self, request: int, now: float) -> None:
        """Sends it to the first hosted provider that takes it."""
        self.hosted(request)

    def first_token(self, request: int, now: float) -> None:
        """Learns nothing."""

    def ended(self, request: int, now: float) -> None:
        """Learns nothing."""

    def close(self, now: float) -> None:
        """Ends the run: idle workers stop."""
        self.replay.endpoint.close(now)

    def hosted(self, request: int) -> HostedAnswer:
        """Sends it to hosted providers in order."""
        answer = self.replay.try_hosted(request, self.order)
        self.replay.book_hosted(request, answer)
        return answer

    def _endpoint(self, replay: Replay) -> Endpoint:
        return Endpoint(replay.scenario.own, replay.draws)


class AllOwn(Baseline):
    """Sends everything to the own endpoint, which scales by queue delay."""

    def arrived(self, request: int, now: float) -> None:
        """Sends it to the endpoint's queue."""
        self.replay.send_own(request)


class Split(Baseline):
    """Sends 80 % to the own endpoint, drawn per request; what frameworks call weighted routing."""

    def arrived(self, request: int, now: float) -> None:
        """Sends it by its draw."""
        if self.replay.draws.choice[request] < _OWN_SHARE:
            self.replay.send_own(request)
        else:
            self.hosted(request)


class NominalFallback(Baseline):
    """Sends to the lowest price on paper first. After a late first token it falls back to hosted, and pays twice.

    The own price on paper is that of a worker which is always full: dollars per second by tokens per second.
    """

    def begin(self, replay: Replay) -> Endpoint:
        """Compares prices for the trace's mean request."""
        prompt = float(replay.trace.prompt_tokens.mean())
        completion = float(replay.trace.completion_tokens.mean())
        own = replay.scenario.own
        seconds = prompt / own.profile.prefill_tokens_per_second + completion / own.profile.decode_tokens_per_second
        hosted = [provider.usd(prompt, completion) for provider in replay.scenario.hosted]
        self._own_first = seconds * own.usd_per_second < min(hosted)
        endpoint = super().begin(replay)
        self.order = tuple(sorted(self.order, key=lambda number: hosted[number]))
        return endpoint

    def arrived(self, request: int, now: float) -> None:
        """Sends it to the cheaper side on paper."""
        if not self._own_first:
            self.hosted(request)
            return
        self.replay.send_own(request)
        patience = _PATIENCE * self.replay.scenario.target.first_token_seconds(self.replay.prompts[request])
        self.replay.at(now + patience, self._give_up, request)

    def _give_up(self, request: int) -> None:
        if not self.replay.first_token_at[request]:
            self.hosted(request)  # the own endpoint works on, and its answer is dropped


class Latency(Baseline):
    """Sends to the side whose last answers came sooner; probes of the other wake workers, and keep them awake."""

    def begin(self, replay: Replay) -> Endpoint:
        """Starts without any measurement of either side."""
        self._seconds = {True: 0.0, False: 0.0}
        return super().begin(replay)

    def arrived(self, request: int, now: float) -> None:
        """Sends it to the faster side, or as a probe to the other."""
        own = self._seconds[True] <= self._seconds[False]
        if self.replay.draws.choice[request] < _PROBES:
            own = not own
        if own:
            self.replay.send_own(request)
        else:
            answer = self.hosted(request)
            self.replay.at(answer.ends_at, self._measured, False, answer.ends_at - now)

    def ended(self, request: int, now: float) -> None:
        """Learns how fast an own answer was."""
        self._measured(True, self.replay.ends_at[request] - self.replay.arrivals[request])

    def _measured(self, own: bool, seconds: float) -> None:
        known = self._seconds[own]
        self._seconds[own] = _MEMORY * known + (1 - _MEMORY) * seconds if known else seconds


class ActiveSpill(Baseline):
    """Keeps one worker always on; what it would answer late goes to hosted providers."""

    def begin(self, replay: Replay) -> Endpoint:
        """Starts the worker with the trace."""
        self._unread_tokens = 0.0
        endpoint = super().begin(replay)
        endpoint.open(0.0)
        return endpoint

    def arrived(self, request: int, now: float) -> None:
        """Sends it to the worker if that is warm, has a slot, and is predicted to be in time."""
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
        """Takes its prompt off the unread ones."""
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
