"""The result of `deploy apply`, for people and as JSON. Amounts are exact: JSON has them as texts of decimals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from vllm_service.catalog.yaml_edit import Entry, entry_lines
from vllm_service.deployment.cold_start import StartPhase, usd_of
from vllm_service.deployment.first_answer import FirstAnswer
from vllm_service.deployment.holdings import Holding, Holdings
from vllm_service.deployment.pools import SECONDS_PER_HOUR
from vllm_service.deployment.prices import GpuPrices
from vllm_service.deployment.steps import Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """A deployment that stands."""

    name: str
    endpoint_id: str
    openai_url: str
    #: What was created or changed; none where all was there.
    steps: tuple[Step, ...]
    #: None where nothing was asked.
    first: FirstAnswer | None
    holdings: Holdings
    prices: GpuPrices
    provider_name: str
    entry: Entry

    @property
    def usd_per_second(self) -> Decimal | None:
        """The price of the worker that answered, by its GPUs; None where they or their price are not known."""
        worker = None if self.first is None else self.first.worker
        usd = None if worker is None else self.prices.usd_per_hour(worker.gpu_type, worker.gpu_count)
        return None if usd is None else usd / SECONDS_PER_HOUR


def to_json(applied: Applied) -> dict[str, Any]:
    """Returns the document of `deploy apply --json`."""
    return {
        "name": applied.name,
        "endpoint_id": applied.endpoint_id,
        "openai_url": applied.openai_url,
        "is_changed": bool(applied.steps),
        "steps": [_step_json(step) for step in applied.steps],
        "first_answer": None if applied.first is None else _first_json(applied.first, applied.usd_per_second),
        **holdings_json(applied.holdings),
        "provider": {"name": applied.provider_name, "entry": _plain(applied.entry)},
    }


def failure_json(name: str, message: str, steps: Sequence[Step], holdings: Holdings | None) -> dict[str, Any]:
    """Returns the document of a run that did not succeed; `holdings` is null where RunPod cannot be asked."""
    document = {"name": name, "error": message, "steps": [_step_json(step) for step in steps]}
    return document | ({"holdings": None} if holdings is None else holdings_json(holdings))


def holdings_json(holdings: Holdings) -> dict[str, Any]:
    """Returns what exists and what it costs an hour; null is unknown."""
    return {
        "holdings": [
            {
                "kind": item.kind.value,
                "id": item.id,
                "name": item.name,
                "usd_per_hour": amount(item.usd_per_hour),
                "idle_usd_per_hour": amount(item.idle_usd_per_hour),
                "note": item.note,
            }
            for item in holdings.items
        ],
        "usd_per_hour": amount(holdings.usd_per_hour),
        "idle_usd_per_hour": amount(holdings.idle_usd_per_hour),
        "prices_from": holdings.prices_from,
    }


def lines(applied: Applied) -> Iterator[str]:
    """Yields the result for people."""
    yield f"{applied.name} stands: endpoint {applied.endpoint_id}, {_done(applied.steps)}"
    if applied.first is not None:
        yield from _first_lines(applied.first, applied.usd_per_second)
    yield ""
    yield from holdings_lines(applied.holdings)
    yield ""
    yield f"OpenAI clients: base_url={applied.openai_url}"
    yield "The entry for providers.yaml:"
    yield from entry_lines(applied.provider_name, applied.entry, 2)
    if applied.first is not None:
        yield "and in models.yaml, below the `offers:` of a model:"
        yield f"      - {{ provider: {applied.provider_name}, model: {applied.first.model} }}"


def holdings_lines(holdings: Holdings | None) -> Iterator[str]:
    """Yields what exists and what it costs an hour."""
    if holdings is None:
        yield "What exists now is unknown, since RunPod does not answer: look with `deploy status`."
        return
    if not holdings.items:
        yield "Nothing of it exists at RunPod, so nothing is billed."
        return
    yield f"At RunPod now: {_per_hour(holdings.usd_per_hour)}; without requests {_per_hour(holdings.idle_usd_per_hour)}"
    for item in holdings.items:
        yield _holding_line(item)


def amount(usd: Decimal | None) -> str | None:
    """Returns dollars as a text, to a billionth; None stays None."""
    return None if usd is None else f"{round(usd, 9).normalize():f}"


def _holding_line(item: Holding) -> str:
    usd = _per_hour(item.usd_per_hour)
    idle = "" if item.idle_usd_per_hour == item.usd_per_hour else f", idle {_per_hour(item.idle_usd_per_hour)}"
    return f"  {item.kind} {item.name} ({item.id}): {usd}{idle}; {item.note}"


def _per_hour(usd: Decimal | None) -> str:
    return "$ unknown an hour" if usd is None else f"${usd:.4f} an hour"


def _done(steps: Sequence[Step]) -> str:
    return "; ".join(str(step) for step in steps) if steps else "nothing had to be changed"


def _first_lines(first: FirstAnswer, usd_per_second: Decimal | None) -> Iterator[str]:
    yield f"{first.model} answered in {first.answer_seconds:.1f} s: {first.text}"
    if not first.was_cold:
        yield "A worker was warm already."
        return
    yield f"A worker was ready after {first.wait_seconds:.1f} s."
    if first.start is None:
        yield "The phases of its start are unknown: its log could not be read, or has no record of them."
        return
    yield f"Its cold start took {first.start.seconds:.1f} s, {_usd(first.start.seconds, usd_per_second)}:"
    for phase in first.start.phases:
        yield f"  {phase.name:<14}{phase.seconds:>8.1f} s   {_usd(phase.seconds, usd_per_second)}"


def _usd(seconds: Decimal, usd_per_second: Decimal | None) -> str:
    usd = usd_of(seconds, usd_per_second)
    return "$ unknown" if usd is None else f"${usd:.6f}"


def _first_json(first: FirstAnswer, usd_per_second: Decimal | None) -> dict[str, Any]:
    start, worker = first.start, first.worker
    return {
        "model": first.model,
        "text": first.text,
        "answer_seconds": amount(first.answer_seconds),
        "wait_seconds": amount(first.wait_seconds),
        "was_cold": first.was_cold,
        "worker": None
        if worker is None
        else {
            "id": worker.id,
            "gpu_type": worker.gpu_type,
            "gpu_count": worker.gpu_count,
            "data_center": worker.data_center,
            "usd_per_second": amount(usd_per_second),
        },
        "cold_start": None
        if start is None
        else {
            "seconds": amount(start.seconds),
            "usd": amount(usd_of(start.seconds, usd_per_second)),
            "phases": [_phase_json(phase, usd_per_second) for phase in start.phases],
        },
    }


def _phase_json(phase: StartPhase, usd_per_second: Decimal | None) -> dict[str, Any]:
    return {
        "name": phase.name,
        "begin_seconds": amount(phase.begin_seconds),
        "seconds": amount(phase.seconds),
        "usd": amount(usd_of(phase.seconds, usd_per_second)),
    }


def _step_json(step: Step) -> dict[str, Any]:
    return {
        "action": step.action.value,
        "kind": step.kind.value,
        "name": step.name,
        "fields": [difference.field for difference in step.differences],
    }


def _plain(entry: Entry) -> dict[str, Any]:
    return {
        key: _plain(value) if isinstance(value, Mapping) else f"{value:f}" if isinstance(value, Decimal) else value
        for key, value in entry.items()
    }
