"""What the worker reads from its environment, and what it refuses there."""

from __future__ import annotations

import pytest

from handler.errors import ConfigurationError
from handler.settings import DEMO_FLAGS, WorkerSettings

UNDER_RUNPOD = {"RUNPOD_WEBHOOK_GET_JOB": "http://127.0.0.1:1/job-take/w", "RUNPOD_ENDPOINT_ID": "ep"}


def test_on_a_laptop_without_a_model_the_demo_model_is_served() -> None:
    settings = WorkerSettings.from_environment({})
    assert settings.serves_demo_model
    assert settings.vllm_defaults == DEMO_FLAGS


@pytest.mark.parametrize(
    "environment",
    [{"MODEL_NAME": "a/b"}, {"MODEL": "a/b"}, {"VLLM_MODEL": "a/b"}, {"VLLM_EXTRA_ARGS": "--model a/b"}],
)
def test_a_model_named_in_any_accepted_way_is_served_instead(environment: dict[str, str]) -> None:
    assert WorkerSettings.from_environment(environment).vllm_defaults == {}
    assert not WorkerSettings.from_environment(environment | UNDER_RUNPOD).serves_demo_model


def test_under_runpod_a_missing_model_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ConfigurationError, match="MODEL_NAME is not set: name the model"):
        WorkerSettings.from_environment(UNDER_RUNPOD)


def test_an_empty_variable_counts_as_not_set() -> None:
    settings = WorkerSettings.from_environment({"MODEL_NAME": " ", "MAX_CONCURRENCY": "", "LOG_LEVEL": ""})
    assert settings.serves_demo_model
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
        ("VERIFY_MODEL", "perhaps"),
    ],
)
def test_a_wrong_value_is_refused_with_the_variables_name(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=name) as caught:
        WorkerSettings.from_environment({name: value})
    assert caught.value.param == name


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
