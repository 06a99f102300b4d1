"""What was measured of finished requests, per model and provider: told once per request, summed up when asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from vllm_service.catalog.model import Catalog
from vllm_service.domain.requests import RequestRecord
from vllm_service.errors import known_codes
from vllm_service.observability.tally import Tally, combined
from vllm_service.observability.windows import SLOT_SECONDS, Windows

OTHER = "other"
_MOST_SERIES = 128
_RATE_MINUTES = 5
_MOST_WAITING = 128  # requests of one series that are summed up at once


@dataclass(slots=True)
class _Series:
    """A model at a provider, by names of the catalog."""

    model: str
    provider: str | None
    windows: Windows
    target_ms: float | None
    waiting: list[RequestRecord] = field(default_factory=list)


@dataclass(slots=True)
class _Minute:
    number: int
    requests: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Rates:
    """Over the last five minutes, or since the start if that is less. Peak: most tokens of one minute, per second."""

    requests_per_minute: float
    tokens_per_second: float
    peak_tokens_per_second: float


class Measurements:
    """Fed with one `record` per finished request from the event loop's thread; read from the same thread.

    Models and providers that are not in the catalog, and whatever comes after the 128th pair, are counted as "other":
    callers cannot make it grow. clock: monotonic seconds.
    """

    def __init__(
        self,
        catalog: Callable[[], Catalog],
        default_target_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._catalog = catalog
        self._default_target_seconds = default_target_seconds
        self._clock = clock
        self._started_at = clock()
        self._series: dict[tuple[str, str | None], _Series] = {}
        self._by_asked_name: dict[tuple[str, str | None], _Series] = {}
        self._slot = int(self._started_at // SLOT_SECONDS)
        self._overall = Windows(self._slot)  # of ended slots: reading all of them from each series would take long
        self._minute = _Minute(int(self._started_at // 60))
        self._minute_ends_at = (self._minute.number + 1) * 60.0
        self._minutes: list[_Minute] = []
        self._peak_tokens = 0
        self._codes = known_codes()

    def record(self, record: RequestRecord) -> None:
        """A request has finished. It is summed up with others, at the latest when somebody asks; never blocks."""
        if self._clock() >= self._minute_ends_at:
            self._turn()
        series = self._by_asked_name.get((record.model, record.provider)) or self._find(record.model, record.provider)
        series.waiting.append(record)
        if len(series.waiting) >= _MOST_WAITING:
            self._sum_up(series)

    @property
    def uptime_seconds(self) -> float:
        """Since this was made."""
        return self._clock() - self._started_at

    def all_time(self) -> Tally:
        """Everything since the start."""
        return combined([*self._present_tallies(), *self._overall.all_time()])

    def last_hour(self) -> Tally:
        """The last 55 to 60 minutes."""
        return combined([*self._present_tallies(), *self._overall.last_hour()])

    def last_day(self) -> Tally:
        """The last 23 to 24 hours."""
        return combined([*self._present_tallies(), *self._overall.last_day()])

    def numbers_of_last_hour(self, model: str) -> Tally:
        """One model's sums of the last hour, without its outcomes and distributions."""
        result = Tally()
        for series in self._present():
            if series.model == model:
                for tally in series.windows.last_hour():
                    result.merge_numbers(tally)
        return result

    def by_model(self) -> dict[str, Tally]:
        """Everything since the start, per model."""
        return _grouped((series.model, tally) for series in self._present() for tally in series.windows.all_time())

    def by_provider(self) -> dict[str, Tally]:
        """Everything since the start, per provider; without the requests that reached none."""
        return _grouped(
            (series.provider, tally)
            for series in self._present()
            if series.provider is not None
            for tally in series.windows.all_time()
        )

    def target_ms(self, model: str | None = None) -> float | None:
        """What a request should take at most: the model's own target, else the gateway's; None without one."""
        found = self._catalog().models.get(model) if model is not None else None
        seconds = found.latency_target_seconds if found else None
        seconds = self._default_target_seconds if seconds is None else seconds
        return None if seconds is None else seconds * 1000

    def rates(self) -> Rates:
        """How fast requests and tokens come."""
        self._present()
        now = self._clock()
        oldest = self._minute.number - _RATE_MINUTES
        minutes = [self._minute, *(minute for minute in self._minutes if minute.number > oldest)]
        since = max(self._started_at, (oldest + 1) * 60.0)
        seconds = max(now - since, 1.0)
        return Rates(
            requests_per_minute=sum(minute.requests for minute in minutes) / seconds * 60,
            tokens_per_second=sum(minute.tokens for minute in minutes) / seconds,
            peak_tokens_per_second=max(self._peak_tokens, self._minute.tokens) / 60,
        )

    def _present(self) -> Iterable[_Series]:
        self._sum_up(*self._series.values())
        if self._clock() >= self._minute_ends_at:
            self._turn()
        return self._series.values()

    def _sum_up(self, *several: _Series) -> None:
        for series in several:
            if records := series.waiting:
                codes = [record.error_code for record in records if record.error_code is not None]
                errors = [code if code in self._codes else OTHER for code in codes]
                tokens = [record.usage.completion_tokens for record in records if record.usage is not None]
                series.windows.current.add(records, errors, series.target_ms)
                self._minute.requests += len(records)
                self._minute.tokens += sum(tokens)
                series.waiting = []

    def _turn(self) -> None:
        """A minute is over: its rate is kept, targets are read again, and slots end when theirs is."""
        self._sum_up(*self._series.values())
        now = self._clock()
        self._peak_tokens = max(self._peak_tokens, self._minute.tokens)
        self._minutes = [*self._minutes[1 - _RATE_MINUTES :], self._minute]
        self._minute = _Minute(int(now // 60))
        self._minute_ends_at = (self._minute.number + 1) * 60.0
        for series in self._series.values():
            series.target_ms = self.target_ms(series.model)
        slot = int(now // SLOT_SECONDS)
        if slot != self._slot:
            self._slot = slot
            for series in self._series.values():
                self._overall.current.merge(series.windows.turn(slot))
            self._overall.turn(slot)

    def _present_tallies(self) -> list[Tally]:
        return [series.windows.current for series in self._present()]

    def _find(self, asked: str, provider: str | None) -> _Series:
        catalog = self._catalog()
        found = catalog.models.get(asked)
        model = found.name if found else OTHER
        known = provider if provider is None or provider in catalog.providers else OTHER
        key = (model, known)
        if key not in self._series and len(self._series) >= _MOST_SERIES:
            key = (OTHER, OTHER)
        if key not in self._series:
            windows = Windows(self._slot)
            self._series[key] = _Series(key[0], key[1], windows, self.target_ms(key[0]))
        if found and known == provider and len(self._by_asked_name) < 8 * _MOST_SERIES:
            self._by_asked_name[asked, provider] = self._series[key]
        return self._series[key]


def _grouped(pairs: Iterable[tuple[str, Tally]]) -> dict[str, Tally]:
    result: dict[str, Tally] = {}
    for name, tally in pairs:
        result.setdefault(name, Tally()).merge(tally)
    return result
