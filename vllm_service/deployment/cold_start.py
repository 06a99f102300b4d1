"""Reads the record of a start that a worker writes into its log, and prices its phases. See docs/cold-start.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from vllm_service.domain.money import exact_number

#: What the worker's log has before the record.
_MARK = "cold_start {"
_LONGEST_LINE = 65_536
_MOST_PHASES = 64
_LONGEST_NAME = 40
#: A start of a day is none.
_MOST_SECONDS = Decimal(86_400)
_NANO_USD = Decimal("0.000000001")


@dataclass(frozen=True, slots=True)
class StartPhase:
    """One phase of a start. Phases overlap, so their seconds may add up to more than the start took."""

    name: str
    #: Since the start of the worker's process.
    begin_seconds: Decimal
    seconds: Decimal


@dataclass(frozen=True, slots=True)
class ColdStart:
    """A worker's start as its log tells it."""

    seconds: Decimal
    phases: tuple[StartPhase, ...]


def parse_cold_start(line: str) -> ColdStart | None:
    """Returns the record of a log line, in the worker's text or JSON form; None for any other line."""
    if "cold_start" not in line or len(line) > _LONGEST_LINE:
        return None
    text: object = _object(line).get("message") if line.lstrip().startswith("{") else line
    at = text.find(_MARK) if isinstance(text, str) else -1
    return _record(text[at + len(_MARK) - 1 :]) if isinstance(text, str) and at >= 0 else None


def usd_of(seconds: Decimal, usd_per_second: Decimal | None) -> Decimal | None:
    """Returns dollars to a billionth; None without a price."""
    return None if usd_per_second is None else (seconds * usd_per_second).quantize(_NANO_USD)


def _record(text: str) -> ColdStart | None:
    document = _object(text)
    seconds = _seconds(document.get("seconds"))
    listed = document.get("phases")
    if seconds is None or not isinstance(listed, list):
        return None
    phases = [phase for entry in listed[:_MOST_PHASES] if (phase := _phase(entry)) is not None]
    return ColdStart(seconds, tuple(phases))


def _phase(entry: object) -> StartPhase | None:
    fields = entry if isinstance(entry, Mapping) else {}
    name = fields.get("name")
    begin, seconds = _seconds(fields.get("begin_seconds")), _seconds(fields.get("seconds"))
    if not isinstance(name, str) or not name.isidentifier() or len(name) > _LONGEST_NAME:
        return None
    return None if begin is None or seconds is None else StartPhase(name, begin, seconds)


def _object(text: str) -> Mapping[str, object]:
    """Returns the JSON object that the text begins with; behind it may stand what a log adds, such as a job's id."""
    try:
        document, _ = json.JSONDecoder(parse_float=exact_number, parse_constant=lambda _: None).raw_decode(
            text.lstrip()
        )
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _seconds(value: object) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return None
    return Decimal(value) if 0 <= value <= _MOST_SECONDS else None
