"""Which traces a benchmark replays."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks.settings import VARIABLE, add_traces, traces, traces_of
from vllm_service.data import Kind, shipped
from vllm_service.errors import ConfigurationError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.csv.gz", "a.csv", "notes.txt"):
        (tmp_path / name).touch()
    return tmp_path


def test_by_default_the_shipped_ones() -> None:
    assert traces([], {}) == traces([], {VARIABLE: ""}) == list(shipped(Kind.TRACE).values())


def test_the_variable_names_a_folder_or_a_file(folder: Path) -> None:
    assert traces([], {VARIABLE: str(folder)}) == [folder / "a.csv", folder / "b.csv.gz"]
    assert traces([], {VARIABLE: str(folder / "a.csv")}) == [folder / "a.csv"]


def test_what_is_given_comes_before_the_variable_and_may_be_a_shipped_name(folder: Path) -> None:
    environment = {VARIABLE: str(folder)}
    assert traces(["bursty", str(folder / "b.csv.gz")], environment) == [
        shipped(Kind.TRACE)["bursty"],
        folder / "b.csv.gz",
    ]


@pytest.mark.parametrize("name", ["nowhere.csv", "EMPTY"])
def test_what_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    source = str(tmp_path) if name == "EMPTY" else name
    with pytest.raises(ConfigurationError, match=source):
        traces([source], {})


@pytest.mark.parametrize("flag", ["--trace", "--traces"])
def test_the_option_ends_a_benchmark_with_2_and_a_line(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_traces(parser)
    with pytest.raises(SystemExit) as ended:
        traces_of(parser, parser.parse_args([flag, "nowhere.csv"]))
    assert ended.value.code == 2
    assert "nowhere.csv" in capsys.readouterr().err
