"""The parts of `make serve`: its waves of traffic, its lines, and its one price everywhere."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from runpod_emulator.hosted import read_config
from scripts.try_gateway import configuration
from scripts.try_gateway.processes import ROOT
from scripts.try_gateway.story import Look, Story, sums
from scripts.try_gateway.traffic import Waves, questions
from vllm_service.catalog.load import load
from vllm_service.domain.pricing import SecondPrice
from vllm_service.domain.usage import Usage
from vllm_service.settings import CatalogSettings, ServiceSettings

NOTHING = Look(
    answered={"own": 0, "hosted-1": 0},
    failed_over=0,
    starting=0,
    warm=0,
    worker_usd=Decimal(0),
    hosted_usd=Decimal(0),
    baseline_usd=Decimal(0),
)


@pytest.mark.parametrize(
    ("seconds", "sends"), [(0, True), (9.9, True), (10, False), (14.9, False), (15, True), (29, False), (30, False)]
)
def test_waves_have_pauses_and_an_end(seconds: float, sends: bool) -> None:
    assert Waves(wave_seconds=10, pause_seconds=5, total_seconds=30).sends_at(seconds) is sends


def test_questions_are_the_same_in_every_run_and_all_have_answers() -> None:
    first, second = questions(), questions()
    asked = [next(first) for _ in range(300)]
    assert asked == [next(second) for _ in range(300)]
    known = {json.loads(line)["question"] for line in configuration.PAIRS.read_text(encoding="utf-8").splitlines()}
    assert set(asked) <= known


def test_the_story_names_each_event_once_and_a_worker_that_comes_again_again() -> None:
    story = Story()
    steps = [
        NOTHING,
        replace(NOTHING, failed_over=1),
        replace(NOTHING, failed_over=2, starting=1),
        replace(NOTHING, failed_over=2, warm=1),
        NOTHING,
        replace(NOTHING, starting=1),
    ]
    told = [line.split("s  ")[1] for second, step in enumerate(steps) for line in story.lines(float(second), step)]
    assert [line.split(":")[0].split(";")[0] for line in told] == [
        "requests come",
        "hosted-1 refused a request",
        "a worker is worth its price now",
        "the worker is warm and takes the requests",
        "the worker has stopped",
        "a worker is worth its price now",
    ]


def test_the_sums_subtract_both_bills_from_what_hosted_providers_alone_would_have_cost() -> None:
    look = replace(
        NOTHING,
        answered={"own": 3, "hosted-1": 1},
        worker_usd=Decimal("0.01"),
        hosted_usd=Decimal("0.02"),
        baseline_usd=Decimal("0.06"),
    )
    assert sums(look).strip() == (
        "4 answers,  75 % own; spent $0.0300 (worker $0.0100, hosted $0.0200), hosted alone $0.0600: saved +50 %"
    )
    assert sums(NOTHING).endswith("nothing to compare yet")


def test_the_emulated_bills_the_gateway_s_prices_and_the_baseline_are_one_price(tmp_path: Path) -> None:
    configuration.write(tmp_path, "http://127.0.0.1:9")
    catalog = load(CatalogSettings.from_environment({"CONFIG_DIR": str(tmp_path)}))
    model = catalog.models["demo-model"]
    billed = {provider.name: provider.models[0] for provider in read_config(tmp_path / "hosted.json")}
    assert [offer.provider for offer in model.offers] == ["own", "hosted-1", "hosted-2"]
    for offer in model.offers[1:]:
        assert offer.price is not None
        assert offer.price == model.baseline_price
        assert offer.price.cost_picousd(Usage(1000, 10)) == billed[offer.provider].usd(1000, 0, 10) * 10**12
    assert catalog.providers["own"].second_price == SecondPrice.per_second(configuration.USD_PER_SECOND)
    arguments = configuration.emulator_arguments(tmp_path, 1)
    assert arguments[arguments.index("--usd-per-second") + 1] == configuration.USD_PER_SECOND


def ended(*arguments: str) -> tuple[int, str]:
    """Runs the command, which ends before it has started anything, and returns its exit code and its errors."""
    command = [sys.executable, "-m", "scripts.try_gateway", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_a_taken_port_is_one_sentence_and_nothing_is_sent_to_what_listens_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, message = ended("--port", str(port), "--directory", str(tmp_path / "serve"))
        taken.setblocking(False)
        with pytest.raises(BlockingIOError):
            taken.accept()
    assert (code, message) == (
        1,
        f"port {port}: Address already in use. Stop what listens there, or choose another port: "
        "python -m scripts.try_gateway --port 0 takes any free one.\n",
    )


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, message = ended("--port", "0", "--directory", str(tmp_path / "file"))
    assert code == 1
    assert message == f"{tmp_path}/file: File exists. Choose a folder that can be written with --directory.\n"


@pytest.mark.parametrize(
    ("option", "value"),
    [("--port", "99999"), ("--port", "-1"), ("--port", "x"), ("--traffic-minutes", "nan"), ("--traffic-minutes", "-1")],
)
def test_a_number_that_cannot_be_is_a_wrong_argument(option: str, value: str) -> None:
    code, message = ended(f"{option}={value}")
    assert code == 2
    assert message.endswith(f"got '{value}'\n")


def test_the_shell_s_variables_do_not_reach_the_demo(tmp_path: Path) -> None:
    shell = {"DATABASE_URL": "postgresql://production/ledger", "REQUIRE_KEYS": "true", "PROVIDERS_FILE": "other.yaml"}
    settings = ServiceSettings.from_environment(shell | configuration.gateway_variables(tmp_path, 8123))
    assert (settings.database_url, settings.require_keys) == (None, False)
    assert (settings.providers_path, settings.port) == (tmp_path / "providers.yaml", 8123)
