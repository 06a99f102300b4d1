"""Measurements of finished requests, per model and provider: recorded per request, summed up when they are read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from vllm_service.catalog.model import Catalog
from vllm_service.domain.requests import RequestRecord
from vllm_service.errors import known_codes
from vllm_service.observability.tally import Tally, combined
from vllm_service.observability.windows import SLOT_SECONDS, Windows

#: The label of models, providers and error codes that are not ours to name.
OTHER = "other"
#: The most pairs of model and provider.
_MAX_SERIES = 128
_RATE_MINUTES = 5
#: The most records of one series that wait. Summing up many at once takes a third of the time of one by one.
_MAX_WAITING = 128


@dataclass(slots=True)
class _Series:
    """The requests of one model at one provider, both by their names in the catalog."""

    model: str
    #: None: no provider was tried.
    provider: str | None
    windows: Windows
    #: The latency target; None without one.
    target_ms: float | None
    #: Records that are not summed up yet.
    waiting: list[RequestRecord] = field(default_factory=list)


@dataclass(slots=True)
class _Minute:
    """Counts of one minute."""

    #: Of the clock's minutes since its zero.
    number: int
    requests: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates of requests and generated tokens, over the last five minutes, or since the start if that is less."""

    requests_per_minute: float
    tokens_per_second: float
    #: Of the best minute since the start.
    peak_tokens_per_second: float


class Measurements:
    """Sums over finished requests. The event loop's thread records and reads; there is no lock.

    Models and providers that are not in the catalog, and pairs beyond the 128th, count as "other": made-up names must
    not fill the memory. clock: monotonic seconds.
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
        #: By the requested name, an alias perhaps, and the provider: spares most requests the catalog's look-up.
        self._by_requested_name: dict[tuple[str, str | None], _Series] = {}
        self._slot = int(self._started_at // SLOT_SECONDS)
        #: All series together, of ended slots only: merging them from every series at each read would take long.
        self._overall = Windows(self._slot)
        self._minute = _Minute(int(self._started_at // 60))
        self._minute_ends_at = (self._minute.number + 1) * 60.0
        self._minutes: list[_Minute] = []
        self._peak_tokens = 0
        self._codes = known_codes()

    def record(self, record: RequestRecord) -> None:
        """Notes a finished request. Never blocks: it is summed up with others, at the latest when they are read."""
        if self._clock() >= self._minute_ends_at:
            self._turn()
        series = self._by_requested_name.get((record.model, record.provider)) or self._find(
            record.model, record.provider
        )
        series.waiting.append(record)
        if len(series.waiting) >= _MAX_WAITING:
            self._sum_up(series)

    @property
    def uptime_seconds(self) -> float:
        """Seconds since this was made."""
        return self._clock() - self._started_at

    def all_time(self) -> Tally:
        """Returns the sums since the start."""
        return combined([*self._current_tallies(), *self._overall.all_time()])

    def last_hour(self) -> Tally:
        """Returns the sums of the last 55 to 60 minutes."""
        return combined([*self._current_tallies(), *self._overall.last_hour()])

    def last_day(self) -> Tally:
        """Returns the sums of the last 23 to 24 hours."""
        return combined([*self._current_tallies(), *self._overall.last_day()])

    def numbers_of_last_hour(self, model: str) -> Tally:
        """Returns one model's plain sums of the last hour: no outcomes, no distributions."""
        result = Tally()
        for series in self._summed_up():
            if series.model == model:
                for tally in series.windows.last_hour():
                    result.merge_numbers(tally)
        return result

    def by_model(self) -> dict[str, Tally]:
        """Returns the sums since the start, per model."""
        return _grouped((series.model, tally) for series in self._summed_up() for tally in series.windows.all_time())

    def by_provider(self) -> dict[str, Tally]:
        """Returns the sums since the start, per provider, without requests that reached none."""
        return _grouped(
            (series.provider, tally)
            for series in self._summed_up()
            if series.provider is not None
            for tally in series.windows.all_time()
        )

    def target_ms(self, model: str | None = None) -> float | None:
        """Returns the latency target: the model's own, else the gateway's; None without one."""
        found = self._catalog().models.get(model) if model is not None else None
        seconds = found.latency_target_seconds if found else None
        seconds = self._default_target_seconds if seconds is None else seconds
        return None if seconds is None else seconds * 1000

    def rates(self) -> Rates:
        """Returns the present rates."""
        self._summed_up()
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

    def _summed_up(self) -> Iterable[_Series]:
        """Returns all series, with nothing waiting and the minute up to date."""
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
        """Ends a minute: keeps its counts, reads the targets again, and ends the slot if its time is over."""
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

    def _current_tallies(self) -> list[Tally]:
        return [series.windows.current for series in self._summed_up()]

    def _find(self, requested: str, provider: str | None) -> _Series:
        """Returns the series of a requested name and a provider, made if there is room; else the one of "other"."""
        catalog = self._catalog()
        found = catalog.models.get(requested)
        model = found.name if found else OTHER
        known = provider if provider is None or provider in catalog.providers else OTHER
        key = (model, known)
        if key not in self._series and len(self._series) >= _MAX_SERIES:
            key = (OTHER, OTHER)
        if key not in self._series:
            windows = Windows(self._slot)
            self._series[key] = _Series(key[0], key[1], windows, self.target_ms(key[0]))
        if found and known == provider and len(self._by_requested_name) < 8 * _MAX_SERIES:
            self._by_requested_name[requested, provider] = self._series[key]
        return self._series[key]


def _grouped(pairs: Iterable[tuple[str, Tally]]) -> dict[str, Tally]:
    result: dict[str, Tally] = {}
    for name, tally in pairs:
        result.setdefault(name, Tally()).merge(tally)
    return result
