"""A worker's record of its start is read from its log, in both forms; anything else is no record."""

from __future__ import annotations

import io
import json
import logging
from decimal import Decimal

import pytest

from handler.logs import JsonFormatter, TextFormatter
from handler.start.timeline import Timeline
from vllm_service.deployment.cold_start import ColdStart, StartPhase, parse_cold_start, usd_of

RECORD = '{"seconds": 9.3, "usd": null, "phases": [{"name": "load", "begin_seconds": 8, "seconds": 0.9, "usd": null}]}'
START = ColdStart(Decimal("9.3"), (StartPhase("load", Decimal(8), Decimal("0.9")),))
LINES: list[tuple[str, ColdStart | None]] = [
    (f"cold_start {RECORD}", START),
    (f"12:00:00 INFO handler.start.timeline: cold_start {RECORD} [job 7]", START),
    (json.dumps({"time": "2026", "message": f"cold_start {RECORD}"}), START),
    ('cold_start {"seconds": 2, "phases": []}', ColdStart(Decimal(2), ())),
    ('cold_start {"seconds": 2, "phases": [1, {}, {"name": "a b", "begin_seconds": 1}]}', ColdStart(Decimal(2), ())),
    ("", None),
    ("the cold_start took long", None),
    ("cold_start {", None),
    ("cold_start []", None),
    ("cold_start {}", None),
    ('cold_start {"seconds": -1, "phases": []}', None),
    ('cold_start {"seconds": NaN, "phases": []}', None),
    ('cold_start {"seconds": 1e999999, "phases": []}', None),
    ('cold_start {"seconds": 1e99999999999999999999, "phases": []}', None),
    ('cold_start {"seconds": true, "phases": []}', None),
    ('cold_start {"seconds": "9", "phases": []}', None),
    (f'cold_start {{"seconds": {"9" * 5000}, "phases": []}}', None),
    ("cold_start " + '{"a":' * 20_000, None),
    ("cold_start {" + " " * 100_000, None),
    (json.dumps({"message": {"cold_start {": 1}}), None),
    ("{cold_start", None),
]  # fmt: skip


@pytest.mark.parametrize(("line", "expected"), LINES, ids=[line[:60] for line, _ in LINES])
def test_a_line_is_a_record_or_not(line: str, expected: ColdStart | None) -> None:
    assert parse_cold_start(line) == expected


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter("%(asctime)s %(levelname)s: %(message)s")])
def test_what_the_worker_writes_is_read(formatter: logging.Formatter) -> None:
    output = io.StringIO()
    handler = logging.StreamHandler(output)
    handler.setFormatter(formatter)
    logger = logging.getLogger("handler.start.timeline")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel("INFO")
    try:
        timeline = Timeline()
        timeline.add("import", timeline.began_at + 1, 6.5)
        timeline.report()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    (start,) = filter(None, map(parse_cold_start, output.getvalue().splitlines()))
    assert start.phases == (StartPhase("import", Decimal("1.0"), Decimal("6.5")),)


def test_many_phases_are_not_all_kept() -> None:
    phases = [{"name": f"p{number}", "begin_seconds": 0, "seconds": 1} for number in range(100)]
    start = parse_cold_start(f"cold_start {json.dumps({'seconds': 1, 'phases': phases})}")
    assert start is not None
    assert len(start.phases) == 64


def test_dollars_are_exact_and_unknown_without_a_price() -> None:
    assert usd_of(Decimal("9.3"), Decimal("0.00031")) == Decimal("0.002883000")
    assert usd_of(Decimal("9.3"), None) is None
