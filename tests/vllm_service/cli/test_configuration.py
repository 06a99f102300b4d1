"""One validation for `check` and `serve`, which reports every error of variables and files at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vllm_service.catalog.support import MODELS, PROVIDERS, Configured
from vllm_service.cli.configuration import validated
from vllm_service.errors import ConfigurationError, ConfigurationFaults
from vllm_service.settings import ServiceSettings

ROOT = Path(__file__).resolve().parents[3]
BAD_PROVIDERS = """\
providers:
  own: {endpoint_id: 'a b', api_key_env: NOT_SET, usd_per_second: cheap, scaling: workersMin}
  port: {base_url: 'http://127.0.0.1:99999/v1', on_disconnect: run}
  preset: {preset: grok, max_connections: 0}
  extra: {base_url: 'http://127.0.0.1:9/v1', colour: red, tags: eu}
"""
BAD_MODELS = """\
models:
  first: {offers: [{provider: own, model: m}, {provider: nobody}], strategy: nope, context_length: long}
  second: {strategy: guess, latency_target_seconds: -1}
tasks:
  'a b': first
"""


def errors_of(environment: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigurationError) as refused:
        validated(environment)
    return refused.value.message.split("\n")


def test_every_error_of_both_files_is_reported_with_its_line(configured: Configured) -> None:
    configured.write(BAD_PROVIDERS, BAD_MODELS)
    found = errors_of(configured.environment())
    expected = [
        "providers.yaml:2: providers.own.endpoint_id: ",
        "providers.yaml:2: providers.own.api_key_env: ",
        "providers.yaml:2: providers.own.usd_per_second: ",
        "providers.yaml:2: providers.own.scaling: 'workersMin' is not known (did you mean workers_min?)",
        "providers.yaml:3: providers.port.base_url: the port is not a number from 1 to 65535",
        "providers.yaml:3: providers.port.on_disconnect: 'run' is not known; expected one of stop, drain",
        "providers.yaml:4: providers.preset.preset: 'grok' is not known (did you mean groq?)",
        "providers.yaml:4: providers.preset.max_connections: ",
        "providers.yaml:5: providers.extra.colour: unknown key",
        "providers.yaml:5: providers.extra.tags: expected a list",
        "models.yaml:2: models.first.offers[1]: model is missing",
        "models.yaml:2: models.first.offers[1].provider: 'nobody' is not known",
        "models.yaml:2: models.first.strategy: 'nope' is not known; expected one of COST, LATENCY",
        "models.yaml:2: models.first.context_length: ",
        "models.yaml:3: models.second: offers is missing",
        "models.yaml:3: models.second.strategy: 'guess' is not known",
        "models.yaml:3: models.second.latency_target_seconds: ",
        "models.yaml:5: tasks.a b: a task's name",
    ]
    shown = [line.removeprefix(f"{configured.folder}/") for line in found]
    assert [text for text in expected if not any(line.startswith(text) for line in shown)] == []
    assert len(found) == len(expected), shown


def test_the_variables_errors_come_together_and_with_those_of_the_files(configured: Configured) -> None:
    configured.write(PROVIDERS.replace("preset: groq", "preset: grok"), MODELS)
    wrong = {
        "SERVICE_PORT": "http",
        "DEFAULT_STRATEGY": "nope",
        "WHEN_REDIS_IS_AWAY": "hide",
        "REDIS_URL": "redis://:hunter2@cache:99999",
        "SERVICE_HOST": "0.0.0.0",
    }
    found = errors_of(configured.environment(**wrong))
    assert [line.partition("=")[0].partition(":")[0].rpartition("/")[2] for line in found] == [
        "SERVICE_PORT",
        "WHEN_REDIS_IS_AWAY",
        "DEFAULT_STRATEGY",
        "SERVICE_HOST",
        "REDIS_URL",
        "providers.yaml",
    ]
    assert "expected one of COST, LATENCY, QUALITY" in found[2]
    assert "hunter2" not in "".join(found)


def test_nothing_follows_from_a_variable_that_is_wrong_itself() -> None:
    with pytest.raises(ConfigurationError) as refused:
        ServiceSettings.from_environment({"SERVICE_HOST": "0.0.0.0", "REQUIRE_KEYS": "sure"})
    assert refused.value.message == "REQUIRE_KEYS='sure': expected true or false"


def test_settings_made_in_code_are_checked_too() -> None:
    with pytest.raises(ConfigurationError, match="REQUIRE_KEYS"):
        ServiceSettings(host="0.0.0.0")


def test_a_missing_file_does_not_hide_the_other_ones_errors(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text("models: [")
    found = errors_of({"CONFIG_DIR": str(tmp_path)})
    assert len(found) == 2
    assert "providers.yaml: No such file" in found[0]
    assert "models.yaml:" in found[1]


def test_one_error_is_raised_as_it_is_and_none_twice() -> None:
    faults = ConfigurationFaults()
    faults.raise_all()
    error = ConfigurationError("wrong", param="x")
    for _ in range(2):
        with faults:
            raise error
    with pytest.raises(ConfigurationError) as refused:
        faults.raise_all()
    assert refused.value is error


CASES = {
    "strategy": (PROVIDERS, MODELS.replace("aliases: [gpt-3.5-turbo]", "strategy: nope"), {}),
    "base_url": (PROVIDERS.replace("127.0.0.1:9/", "127.0.0.1:99999/"), MODELS, {}),
    "label": (PROVIDERS.replace("127.0.0.1:9/", f"{'a' * 70}.test/"), MODELS, {}),
    "key": (PROVIDERS, MODELS, {"OWN_KEY": "two words"}),
    "expected": (PROVIDERS.replace("  groq:", "    expected: {always_on_workers: 99}\n  groq:"), MODELS, {}),
    "variable": (PROVIDERS, MODELS, {"DEFAULT_STRATEGY": "nope"}),
    "database": (PROVIDERS, MODELS, {"DATABASE_URL": "postgresql://127.0.0.1:port/x"}),
}


@pytest.mark.parametrize("case", CASES)
def test_check_and_serve_refuse_the_same_with_the_same_words(configured: Configured, case: str) -> None:
    providers, models, variables = CASES[case]
    configured.write(providers, models)
    environment = {
        **os.environ,
        **configured.environment(DATA_DIR=str(configured.folder), SERVICE_PORT="0", **variables),
    }
    ended = [
        subprocess.run(
            [sys.executable, "-m", "vllm_service", *verb],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        for verb in (["check", "--offline"], ["serve"])
    ]
    assert [one.returncode for one in ended] == [1, 1]
    assert ended[0].stderr == ended[1].stderr
    assert ended[0].stderr.count("\n") == 1
    assert "Traceback" not in ended[0].stderr
