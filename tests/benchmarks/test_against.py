"""The comparison of two checkouts: its ratios as values, its clock, and one short run of this tree against itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.against import BAR, Compared, cpu_seconds
from benchmarks.worker_stack import ROOT, environment


def test_a_ratio_is_of_the_same_round_and_its_median_is_held_to_the_bar() -> None:
    compared = Compared(here=[10.0, 30.0, 20.0], base=[10.0, 20.0, 40.0])
    assert compared.ratios == [1.0, 1.5, 0.5]
    document = compared.to_json("us")
    assert (document["ratio"], document["lowest_ratio"], document["highest_ratio"]) == (1.0, 0.5, 1.5)
    assert compared.is_met
    assert not Compared(here=[BAR + 0.01], base=[1.0]).is_met


def test_the_cpu_clock_of_a_process_is_the_one_that_the_process_reads_itself() -> None:
    before = time.process_time()
    read = cpu_seconds(os.getpid())
    assert before <= read <= time.process_time()


def test_a_base_that_is_no_checkout_is_refused_before_anything_starts(tmp_path: Path) -> None:
    ended = _run(str(tmp_path), "--quick")
    assert ended.returncode == 2
    assert "is no checkout of this repository" in ended.stderr


def test_this_tree_is_measured_against_itself() -> None:
    ended = _run(str(ROOT), "--quick", "--json", "--only", "gateway")
    assert ended.returncode == 0, ended.stderr
    figures = json.loads(ended.stdout)
    assert set(figures) == {"request", "chunks"}
    for figure in figures.values():
        assert figure["here"] > 0
        assert figure["base"] > 0
        assert figure["ratio"] == pytest.approx(figure["here"] / figure["base"])


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.against", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment({}), capture_output=True, text=True, check=False)
