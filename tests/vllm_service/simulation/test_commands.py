"""The command line: one JSON document on stdout, errors that name what to change, traces in their formats."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from vllm_service.__main__ import main
from vllm_service.data import FOLDER, Kind
from vllm_service.errors import ConfigurationError
from vllm_service.simulation.scenario import load_scenario
from vllm_service.simulation.trace import load_trace

SCENARIOS = FOLDER / Kind.SCENARIO
KEYS = {"policy", "usd", "usd_per_million_tokens", "within_target_pct", "worker_hours", "starts"}


@pytest.fixture
def short(tmp_path: Path) -> Path:
    path = tmp_path / "short.csv"
    rows = [f"{number * 0.5},{100 + number},{10 + number % 7}" for number in range(200)]
    path.write_text("\n".join(["arrival_s,prompt_tokens,completion_tokens", *rows]) + "\n")
    return path


def simulated(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, list[dict[str, object]]]:
    assert main(["simulate", *arguments, "--json"]) == 0
    document: dict[str, list[dict[str, object]]] = json.loads(capsys.readouterr().out)
    return document


def test_simulate_prints_every_policy_as_one_document(short: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = simulated(capsys, "--trace", str(short), "--scenario", str(SCENARIOS / "8b-4090.yaml"))
    assert list(document) == ["policies"]
    assert [set(policy) for policy in document["policies"]] == [KEYS] * 8


def test_shipped_traces_and_scenarios_are_known_by_their_names(capsys: pytest.CaptureFixture[str]) -> None:
    named = simulated(capsys, "--trace", "diurnal", "--scenario", "70b-h200", "--policies", "all_hosted")
    paths = ("--trace", str(FOLDER / Kind.TRACE / "diurnal.csv.gz"), "--scenario", str(SCENARIOS / "70b-h200.yaml"))
    assert simulated(capsys, *paths, "--policies", "all_hosted") == named


def test_scale_and_policies_are_followed_and_a_seed_repeats(short: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--trace", str(short), "--scenario", str(SCENARIOS / "70b-h200.yaml"), "--policies", "all_own,cost")
    first = simulated(capsys, *arguments, "--scale", "10", "--seed", "4")
    assert [policy["policy"] for policy in first["policies"]] == ["all_own", "cost"]
    assert simulated(capsys, *arguments, "--scale", "10", "--seed", "4") == first
    assert simulated(capsys, *arguments, "--scale", "0.1", "--seed", "4") != first


def test_a_plot_is_drawn(short: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "run.png"
    scenario = str(SCENARIOS / "8b-4090-gpt4omini.yaml")
    simulated(capsys, "--trace", str(short), "--scenario", scenario, "--plot", str(picture))
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--trace", "nowhere.csv", "--scenario", "8b-4090.yaml"], "nowhere.csv"),
        (["--trace", "SHORT", "--scenario", "nowhere.yaml"], "nowhere.yaml"),
        (["--trace", "SHORT", "--scenario", "8b-4090.yaml", "--scale", "0"], "--scale"),
        (["--trace", "SHORT", "--scenario", "8b-4090.yaml", "--plot", "nowhere/run.png"], "--plot nowhere/run.png"),
    ],
)
def test_a_mistake_is_named_and_exits_1(
    arguments: list[str], named: str, short: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [str(short) if text == "SHORT" else text.replace("8b-4090", f"{SCENARIOS}/8b-4090") for text in arguments]
    assert main(["simulate", *filled]) == 1
    captured = capsys.readouterr()
    assert named in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("policies", ["best", ",", "all_own,best"])
def test_a_policy_that_is_none_is_a_wrong_argument_that_names_all(
    policies: str, short: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["simulate", "--trace", str(short), "--scenario", "8b-4090", "--policies", policies])
    assert ended.value.code == 2
    assert "expected one of cost, all_hosted, all_own" in capsys.readouterr().err


def test_explain_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    scenario = ["--scenario", str(SCENARIOS / "70b-h200.yaml"), "--prompt-tokens", "2000"]
    assert main(["explain", *scenario, "--warm", "1"]) == 0
    assert "why: a warm own worker has room (own)" in capsys.readouterr().out
    assert main(["explain", *scenario]) == 0
    assert "1. hosted-a" in capsys.readouterr().out
    assert main(["explain", *scenario, "--cap-usd", "0.000001"]) == 1
    assert "cap" in capsys.readouterr().err


def test_advise_ranks_choices_for_a_trace(short: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario = ["--scenario", str(SCENARIOS / "8b-4090.yaml"), "--scenario", str(SCENARIOS / "70b-h200.yaml")]
    assert main(["advise", "--trace", str(short), *scenario, "--idle", "5,60", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["choices"]
    assert len(found) == 2 * (1 + 2 * 2)
    assert [choice["usd"] for choice in found] == sorted(choice["usd"] for choice in found)


@pytest.mark.parametrize("wrong", [["--idle", "soon"], ["--idle", "5,-1"], ["--most", "0"], ["--most", "-5"]])
def test_a_number_that_cannot_be_is_a_wrong_argument(wrong: list[str], short: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["advise", "--trace", str(short), "--scenario", str(SCENARIOS / "8b-4090.yaml"), *wrong])
    assert ended.value.code == 2


@pytest.mark.parametrize("name", ["8b-4090", "8b-4090-gpt4omini", "120b-h100", "70b-h200"])
def test_the_shipped_scenarios_load_and_are_dated(name: str) -> None:
    scenario = load_scenario(SCENARIOS / f"{name}.yaml")
    assert (scenario.name, scenario.dated) == (name, "2026-11")
    assert len(scenario.hosted) == 2


def test_a_scenario_with_an_unknown_field_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text((SCENARIOS / "8b-4090.yaml").read_text().replace("  slots:", "  slotts:"))
    with pytest.raises(ConfigurationError, match="slotts"):
        load_scenario(path)


def test_the_ledgers_export_is_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "ledger.csv.gz"
    rows = [
        "request_id,started_at,prompt_tokens,completion_tokens,cost_usd",
        "b,2026-11-20T10:00:05+00:00,200,20,0.1",
        "a,2026-11-20T10:00:00+00:00,100,10,0.1",
        "c,2026-11-20T10:00:09+00:00,,,",
    ]
    path.write_bytes(gzip.compress("\n".join(rows).encode()))
    trace = load_trace(path)
    assert np.array_equal(trace.arrival_seconds, [0.0, 5.0])
    assert np.array_equal(trace.prompt_tokens, [100.0, 200.0])
    assert len(trace.scaled(10.0)) == 2
    assert trace.scaled(10.0).arrival_seconds[1] == 0.5


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "arrival_s,prompt_tokens,completion_tokens\nsoon,1,2\n"])
def test_what_is_no_trace_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.csv"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=r"odd\.csv"):
        load_trace(path)
