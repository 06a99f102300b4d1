"""The timeline of a start: exact dollars, nulls for what is not known, one line and one JSON record."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from decimal import Decimal

import pytest

from handler.errors import ConfigurationError
from handler.settings import StartSettings, WorkerSettings
from handler.start.timeline import Timeline, process_age_seconds
from handler.variables import Variables


def test_each_phase_has_its_begin_its_seconds_and_its_dollars() -> None:
    observed: list[tuple[str, float]] = []
    timeline = Timeline(Decimal("0.00031"), lambda name, seconds: observed.append((name, seconds)), began_at=100.0)
    timeline.add("load", 103.0, 2.5)
    timeline.add("import", 101.0, 10.0)
    record = timeline.record(13.0)
    assert (record["seconds"], record["usd"]) == (13.0, "0.004030000")
    assert record["phases"] == [
        {"name": "import", "begin_seconds": 1.0, "seconds": 10.0, "usd": "0.003100000"},
        {"name": "load", "begin_seconds": 3.0, "seconds": 2.5, "usd": "0.000775000"},
    ]
    assert observed == [("load", 2.5), ("import", 10.0)]


def test_without_a_price_the_dollars_are_null() -> None:
    timeline = Timeline(began_at=0.0)
    timeline.add("load", 1.0, 2.0)
    record = timeline.record(3.0)
    assert record["usd"] is None
    assert record["phases"][0]["usd"] is None


def test_a_phase_that_fails_is_not_counted() -> None:
    timeline = Timeline(began_at=0.0)
    with pytest.raises(ValueError, match="broken"), timeline.phase("load"):
        raise ValueError("broken")
    assert timeline.phases == []


def test_the_report_is_one_line_and_one_json_record(caplog: pytest.LogCaptureFixture) -> None:
    timeline = Timeline(Decimal("0.001"))
    with timeline.phase("load", "loading the model"):
        pass
    with caplog.at_level(logging.INFO, logger="handler.start.timeline"):
        record = timeline.report()
    line, document = caplog.messages[-2:]
    assert line.startswith("ready after ")
    assert "load 0.0" in line
    assert "$" in line
    assert json.loads(document.removeprefix("cold_start ")) == record


def test_the_age_of_a_process_counts_from_before_its_interpreter_was_ready() -> None:
    began = time.monotonic()
    code = "import time; time.sleep(0.3); from handler.start.timeline import process_age_seconds as age; print(age())"
    age = float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert 0.3 <= age <= time.monotonic() - began + 0.02
    assert process_age_seconds() > 0


@pytest.mark.parametrize(
    "variables",
    [{"GPU_USD_PER_SECOND": "free"}, {"GPU_USD_PER_SECOND": "-1"}, {"GPU_USD_PER_SECOND": "NaN"}, {"READ_AHEAD": "x"}],
)
def test_a_wrong_setting_names_itself(variables: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(variables))):
        WorkerSettings.from_environment(variables)


def test_settings_are_read() -> None:
    given = {"GPU_USD_PER_SECOND": "0.00031", "READ_AHEAD": "off", "COMPILE_CACHE_DIR": "/somewhere"}
    settings = StartSettings.read(Variables(given))
    assert (settings.usd_per_second, settings.read_ahead) == (Decimal("0.00031"), False)
    assert str(settings.compile_cache_dir) == "/somewhere"
