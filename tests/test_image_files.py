"""worker.Dockerfile, .dockerignore and .runpod/*.json keep their rules; `make test-image` builds and runs them."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from handler import jobs
from handler.engine.vllm_parts import parse_arguments, read_command_line, serve_parser
from handler.settings import ALLOWED_PATHS, WorkerSettings
from tests.dockerfiles import Dockerfile

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = Dockerfile("worker.Dockerfile")
CODE, instructions = DOCKERFILE.code, DOCKERFILE.instructions
HUB = json.loads((ROOT / ".runpod" / "hub.json").read_text(encoding="utf-8"))
TESTS = json.loads((ROOT / ".runpod" / "tests.json").read_text(encoding="utf-8"))
INPUTS: list[dict[str, Any]] = HUB["config"]["env"]

# The fields that docs.runpod.io/hub/publishing-guide documents (read 2026-11-21), required ones first.
HUB_FIELDS = ({"title", "description", "type", "category", "config"}, {"iconUrl"})
CATEGORIES = {"audio", "embedding", "language", "video", "image"}
HUB_CONFIG_FIELDS = (
    {"runsOn", "containerDiskInGb", "gpuCount", "gpuIds"},
    {"allowedCudaVersions", "env", "presets"},
)
INPUT_FIELDS = (
    {"name", "type", "description"},
    {"default", "advanced", "options", "min", "max", "trueValue", "falseValue"},
)
INPUT_TYPES = {"string", "huggingface", "number", "boolean"}
TEST_FIELDS = ({"name", "input"}, {"timeout"})
TEST_CONFIG_FIELDS = ({"gpuTypeId", "gpuCount"}, {"env", "allowedCudaVersions"})
# docs.runpod.io/references/gpu-types, the pools without the largest (read 2026-11-21).
POOLS = {"AMPERE_16", "AMPERE_24", "ADA_24", "ADA_32_PRO", "AMPERE_48", "ADA_48_PRO", "AMPERE_80", "ADA_80_PRO"}


def assert_fields(document: dict[str, Any], fields: tuple[set[str], set[str]]) -> None:
    required, optional = fields
    assert required <= set(document) <= required | optional


def test_the_base_is_the_pinned_vllm_release() -> None:
    (pin,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["gpu"]
    assert instructions("ARG")[0].partition("@")[0] == f"BASE_IMAGE=vllm/vllm-openai:v{pin.partition('==')[2]}"
    assert instructions("FROM") == ["${BASE_IMAGE}"]


def test_commands_are_in_exec_form_and_the_base_entrypoint_is_gone() -> None:
    assert instructions("CMD") == ['["python", "-u", "handler.py"]']
    assert instructions("ENTRYPOINT") == ["[]"]
    assert re.search(r' CMD \["python", ', instructions("HEALTHCHECK")[0])
    assert instructions("STOPSIGNAL") == ["SIGTERM"]


def test_no_argument_and_no_variable_of_the_image_is_a_secret() -> None:
    assert DOCKERFILE.secrets() == []
    assert "--mount=type=secret,id=HF_TOKEN" in CODE


def test_no_host_is_named_and_nothing_is_installed_but_what_is_locked() -> None:
    assert re.findall(r"https?://[^ ]+", CODE) == []
    assert re.findall(r"(?:apt|apt-get|uv|curl|wget) +(?:install|-)", CODE) == []
    assert "worker-gpu.lock" in CODE
    assert DOCKERFILE.without_hashes() == []


def test_caches_lie_where_a_volume_is_mounted() -> None:
    variables = DOCKERFILE.variables()
    assert variables["HF_HOME"].startswith("/runpod-volume/")
    assert variables["XDG_CACHE_HOME"].startswith("/runpod-volume/")


def test_every_copied_path_exists_and_passes_dockerignore() -> None:
    assert DOCKERFILE.taken()


def test_the_hub_builds_the_same_file() -> None:
    """The Hub looks for .runpod/Dockerfile or Dockerfile; `cp worker.Dockerfile .runpod/Dockerfile` after a change."""
    assert (ROOT / ".runpod" / "Dockerfile").read_text(encoding="utf-8") == DOCKERFILE.text


def test_hub_json_has_the_documented_fields() -> None:
    assert_fields(HUB, HUB_FIELDS)
    assert_fields(HUB["config"], HUB_CONFIG_FIELDS)
    assert (HUB["type"], HUB["config"]["runsOn"]) == ("serverless", "GPU")
    assert HUB["category"] in CATEGORIES
    assert set(HUB["config"]["gpuIds"].split(",")) <= POOLS


@pytest.mark.parametrize("entry", INPUTS, ids=lambda entry: entry["key"])
def test_an_input_of_the_hub_has_the_documented_fields(entry: dict[str, Any]) -> None:
    assert set(entry) == {"key", "input"}
    assert_fields(entry["input"], INPUT_FIELDS)
    assert entry["input"]["type"] in INPUT_TYPES
    values = [option["value"] for option in entry["input"].get("options", [])]
    assert all(set(option) == {"label", "value"} for option in entry["input"].get("options", []))
    assert not values or entry["input"]["default"] in values


@pytest.mark.parametrize(
    "preset", [{"name": "no preset", "defaults": {}}, *HUB["config"]["presets"]], ids=lambda p: p["name"]
)
def test_the_worker_reads_every_value_that_the_hub_would_set(preset: dict[str, Any]) -> None:
    """Every input is a flag of the pinned vLLM, or read by the worker; every default is accepted."""
    assert set(preset["defaults"]) <= {entry["key"] for entry in INPUTS}
    defaults = {entry["key"]: entry["input"].get("default", "") for entry in INPUTS} | preset["defaults"]
    variables = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in defaults.items()}
    settings = WorkerSettings.from_environment(variables | {"RUNPOD_ENDPOINT_ID": "ep"})
    parser = serve_parser()
    command = read_command_line(settings, parser)
    assert parse_arguments(command, parser).model == variables["MODEL_NAME"]
    assert command.warnings == ()
    read = {setting.source for setting in command.settings} | {
        "HF_TOKEN",
        "GRACE_SECONDS",
        "STALL_SECONDS",
        "LOG_LEVEL",
    }
    assert {key for key, value in variables.items() if value} <= read


def test_tests_json_has_the_documented_fields_and_jobs_that_the_worker_takes() -> None:
    assert set(TESTS) == {"tests", "config"}
    assert_fields(TESTS["config"], TEST_CONFIG_FIELDS)
    assert all(set(variable) == {"key", "value"} for variable in TESTS["config"]["env"])
    for test in TESTS["tests"]:
        assert_fields(test, TEST_FIELDS)
        assert test["timeout"] >= 1000, "milliseconds"
        parsed = jobs.parse(
            test["input"], allowed_paths=ALLOWED_PATHS, max_bytes=20_000_000, request_fields=lambda path: ()
        )
        assert parsed.request.path.startswith("/v1/")
