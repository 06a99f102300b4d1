"""The dependency audit fails for a vulnerability, and never passes silently where nothing could be looked up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.audit import CLEAN, NOT_AUDITED, VULNERABLE, read_report, verdict

FINE = {"name": "anyio", "version": "4.16.0", "vulns": []}
SKIPPED = {"name": "h11", "skip_reason": "Dependency not found and could not be audited: h11 (0.16.0)"}
BAD = {"name": "old", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"], "aliases": []}]}


@pytest.mark.parametrize(
    ("dependencies", "code"),
    [([FINE], CLEAN), ([FINE, BAD], VULNERABLE), ([FINE, SKIPPED], NOT_AUDITED), ([SKIPPED, BAD], VULNERABLE)],
)
def test_the_verdict_follows_from_every_package(dependencies: list[dict[str, object]], code: int) -> None:
    assert verdict([read_report("dev.lock", json.dumps({"dependencies": dependencies, "fixes": []}), "")]) == code


def test_no_report_at_all_is_a_failure_with_its_reason() -> None:
    report = read_report("dev.lock", "", "ERROR: something\nERROR: connection refused\n")
    assert (report.failure, verdict([report])) == ("ERROR: connection refused", NOT_AUDITED)


@pytest.mark.parametrize(
    ("option", "code"), [([], NOT_AUDITED), (["--offline", ""], NOT_AUDITED), (["--offline", "ok"], CLEAN)]
)
def test_an_unreachable_database_is_said_loudly_and_only_tolerated_on_request(option: list[str], code: int) -> None:
    nowhere = dict.fromkeys(("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"), "http://127.0.0.1:9")
    ended = subprocess.run(
        [sys.executable, "-m", "scripts.audit", "--service", "osv", *option],
        capture_output=True,
        text=True,
        env={**os.environ, **nowhere, "no_proxy": "", "NO_PROXY": ""},
        cwd=Path(__file__).resolve().parents[2],
        check=False,
    )
    assert ended.returncode == code, ended.stderr
    assert "NOT AUDITED" in ended.stdout
