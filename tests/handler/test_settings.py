"""What the worker reads from its environment, and what it refuses there."""

from __future__ import annotations

from pathlib import Path

import pytest

from handler.errors import ConfigurationError
from handler.settings import WorkerSettings

UNDER_RUNPOD = {"RUNPOD_WEBHOOK_GET_JOB": "http://127.0.0.1:1/job-take/w", "RUNPOD_ENDPOINT_ID": "ep"}


@pytest.mark.parametrize("name", ["MODEL_NAME", "MODEL", "VLLM_MODEL", "VLLM_BASE_URL"])
def test_a_variable_that_names_a_model_is_enough_under_runpod(name: str) -> None:
    assert WorkerSettings.from_environment({name: "http://x", **UNDER_RUNPOD}).names_a_model
    assert not WorkerSettings.from_environment({name: " "}).names_a_model


@pytest.mark.parametrize("name", ["VLLM_EXTRA_ARGS", "CONFIG"])
def test_whether_flags_name_a_model_is_left_to_vllms_parser(name: str) -> None:
    settings = WorkerSettings.from_environment({name: "--model-impl auto", **UNDER_RUNPOD})
    assert not settings.names_a_model
    assert settings.flags_may_name_a_model


def test_under_runpod_a_missing_model_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ConfigurationError, match="MODEL_NAME is not set: name the model"):
        WorkerSettings.from_environment(UNDER_RUNPOD)


def test_everything_that_is_wrong_is_reported_at_once_with_its_variable() -> None:
    wrong = {"GRACE_SECONDS": "x", "STALL_SECONDS": "-1", "LOG_LEVEL": "loud", "READ_AHEAD": "perhaps", "PORT": "http"}
    with pytest.raises(ConfigurationError) as refused:
        WorkerSettings.from_environment({**wrong, **UNDER_RUNPOD})
    assert set((refused.value.param or "").split(", ")) == {*wrong, "MODEL_NAME"}
    assert len(refused.value.message.splitlines()) == len(wrong) + 1
    assert "GRACE_SECONDS='x': expected a number of seconds above zero" in refused.value.message


def test_an_empty_variable_counts_as_not_set() -> None:
    settings = WorkerSettings.from_environment({"MODEL_NAME": " ", "MAX_CONCURRENCY": "", "LOG_LEVEL": ""})
    assert not settings.names_a_model
    assert settings.max_concurrency is None


def test_values_are_read() -> None:
    settings = WorkerSettings.from_environment(
        {"MAX_CONCURRENCY": "7", "MAX_INPUT_BYTES": "1000", "ALLOWED_PATHS": "/v1/, /health", "LOG_LEVEL": "debug"}
    )
    assert (settings.max_concurrency, settings.max_input_bytes) == (7, 1000)
    assert settings.allowed_paths == ("/v1/", "/health")
    assert settings.log_level == "DEBUG"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_CONCURRENCY", "many"),
        ("MAX_CONCURRENCY", "0"),
        ("MAX_INPUT_BYTES", "-1"),
        ("MAX_INPUT_BYTES", "0"),
        ("ALLOWED_PATHS", "v1"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
        ("VERIFY_MODEL", "perhaps"),
        ("PORT", "99999"),
        ("PORT_HEALTH", "-1"),
        ("METRICS_PORT", "port"),
        ("HEALTH_CHECK_PATH", "ping"),
    ],
)
def test_a_wrong_value_is_refused_with_the_variables_name(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=name) as caught:
        WorkerSettings.from_environment({name: value})
    assert caught.value.param == name


@pytest.mark.parametrize(
    ("environment", "serves_http", "takes_jobs"),
    [
        ({"RUNPOD_ENDPOINT_ID": "ep"}, True, False),
        ({"RUNPOD_ENDPOINT_ID": "ep", "PORT": "80"}, True, False),
        (UNDER_RUNPOD | {"PORT": "80"}, False, True),
        ({"PORT": "80"}, False, False),
        ({}, False, False),
    ],
)
def test_an_endpoint_without_a_queue_serves_http_with_or_without_a_port(
    environment: dict[str, str], serves_http: bool, takes_jobs: bool
) -> None:
    settings = WorkerSettings.from_environment({"MODEL_NAME": "a/b", **environment})
    assert (settings.serves_http, settings.takes_jobs) == (serves_http, takes_jobs)


def test_a_leading_tilde_is_the_home_directory_in_every_variable() -> None:
    given = {"MODEL_NAME": "~/models/mine", "BAKED_MODELS_DIR": "~/baked", "HOST_CACHE_DIR": "~", "HF_HOME": "~other/x"}
    models = WorkerSettings.from_environment(given | {"HF_HUB_CACHE": "/h"}).models
    assert models.name == str(Path.home() / "models/mine")
    assert (models.baked_dir, models.host_cache_dir) == (Path.home() / "baked", Path.home())


def test_where_models_come_from_is_read_and_the_token_stays_out_of_the_repr() -> None:
    given = {
        "MODEL_CACHE_DIR": "/v",
        "BAKED_MODELS_DIR": "/b",
        "VERIFY_MODEL": "true",
        "MODEL_CACHE": "off",
        "HF_HOME": "/h",
    }
    models = WorkerSettings.from_environment(given | {"HF_TOKEN": "hf_secret"}).models
    assert (str(models.cache_dir), str(models.baked_dir), str(models.hub_cache_dir)) == ("/v", "/b", "/h/hub")
    assert (models.verify, models.managed, models.offline) == (True, False, False)
    assert models.token == "hf_secret"
    assert "hf_secret" not in repr(models)


def test_the_environment_stays_out_of_the_settings_repr() -> None:
    assert "hf_secret" not in repr(WorkerSettings.from_environment({"HF_TOKEN": "hf_secret"}))
