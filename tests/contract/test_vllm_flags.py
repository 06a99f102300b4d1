"""The worker's variables against the flags of the pinned vLLM: which model, whose warnings, which error."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from handler.engine import vllm_parts
from handler.engine.arguments import HISTORICAL_NAMES, flags_of
from handler.engine.former_names import FORMER_NAMES
from handler.errors import ConfigurationError
from handler.settings import DEMO_MODEL_DIR, WorkerSettings

UNDER_RUNPOD = {"RUNPOD_ENDPOINT_ID": "ep"}
# What base images, shells, Kubernetes, RunPod and CUDA set, and the worker's own variables.
FOREIGN = (
    "SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE HTTP_PROXY HTTPS_PROXY NO_PROXY PATH HOME USER "
    "LOGNAME SHELL PWD OLDPWD TERM LANG LC_ALL TZ HOSTNAME HOSTTYPE SHLVL EDITOR PAGER XDG_CACHE_HOME PUBLIC_KEY "
    "NODE_NAME CUDA_VERSION CUDA_HOME CUDA_VISIBLE_DEVICES NVIDIA_VISIBLE_DEVICES NVIDIA_DRIVER_CAPABILITIES "
    "NCCL_DEBUG NCCL_VERSION LD_LIBRARY_PATH TORCH_CUDA_ARCH_LIST TORCH_HOME OMP_NUM_THREADS TOKENIZERS_PARALLELISM "
    "TRANSFORMERS_CACHE HF_HOME HF_HUB_CACHE HF_HUB_OFFLINE HF_HUB_ENABLE_HF_TRANSFER HUGGING_FACE_HUB_TOKEN "
    "RUNPOD_POD_ID RUNPOD_AI_API_KEY RUNPOD_WEBHOOK_PING RUNPOD_DC_ID RUNPOD_GPU_COUNT RUNPOD_MEM_GB "
    "RUNPOD_PUBLIC_IP PYTHONPATH PYTHON_VERSION VIRTUAL_ENV GPG_KEY KUBERNETES_SERVICE_HOST KUBERNETES_PORT "
    "POD_NAME VLLM_SERVICE_HOST VLLM_SERVICE_PORT VLLM_PORT_8000_TCP VLLM_IMAGE VLLM_COMMIT VLLM_VERSION "
    "OPENAI_API_KEY AWS_ACCESS_KEY_ID AWS_REGION CONFIG_FILE CONFIG_PATH LOG_LEVEL PORT_HEALTH "
    "METRICS_PORT MAX_CONCURRENCY MAX_INPUT_BYTES ALLOWED_PATHS GRACE_SECONDS STALL_SECONDS VLLM_BASE_URL "
    "VLLM_API_KEY MODEL_CACHE MODEL_CACHE_DIR BAKED_MODELS_DIR HOST_CACHE_DIR VERIFY_MODEL HF_ENDPOINT "
    "GPU_USD_PER_SECOND READ_AHEAD COMPILE_CACHE_DIR HEALTH_CHECK_PATH "
    "COMPILE_CACHE_SECRET COMPILE_CACHE_TRUST WORKER_USER MAX_CONSTRAINT_BYTES MAX_LIST_ITEMS MAX_SEQUENCES "
    "MAX_TEXT_CHARACTERS HF_MODULES_CACHE TORCH_EXTENSIONS_DIR "
)


@pytest.fixture(scope="module")
def parser() -> argparse.ArgumentParser:
    return vllm_parts.serve_parser()


def model_of(environment: dict[str, str], parser: argparse.ArgumentParser) -> str:
    """The model that would be served."""
    command = vllm_parts.read_command_line(WorkerSettings.from_environment(environment), parser)
    model: str = vllm_parts.parse_arguments(command, parser).model
    return model


def refusal(environment: dict[str, str], parser: argparse.ArgumentParser) -> ConfigurationError:
    command = vllm_parts.read_command_line(WorkerSettings.from_environment(environment), parser)
    with pytest.raises(ConfigurationError) as refused:
        vllm_parts.parse_arguments(command, parser)
    return refused.value


@pytest.mark.parametrize(
    "extra",
    ["--model a/b", "--model=a/b", "a/b", "a/b --seed 1", "--seed 1 --model a/b", "--model-impl auto --model a/b"],
)
def test_a_model_among_the_extra_arguments_is_the_model(extra: str, parser: argparse.ArgumentParser) -> None:
    assert model_of({"VLLM_EXTRA_ARGS": extra}, parser) == "a/b"
    assert model_of({"VLLM_EXTRA_ARGS": extra} | UNDER_RUNPOD, parser) == "a/b"


@pytest.mark.parametrize("variable", ["CONFIG", "VLLM_CONFIG", "VLLM_EXTRA_ARGS"])
def test_a_model_in_the_file_of_flags_is_the_model(
    variable: str, tmp_path: Path, parser: argparse.ArgumentParser
) -> None:
    (tmp_path / "flags.yaml").write_text("model: a/b\nseed: 7\n")
    named = str(tmp_path / "flags.yaml")
    value = f"--config {named}" if variable == "VLLM_EXTRA_ARGS" else named
    assert model_of({variable: value} | UNDER_RUNPOD, parser) == "a/b"


@pytest.mark.parametrize(
    "extra", ["--model-impl auto", "--model-loader-extra-config {}", "--seed 1", "--served-model-name=--model"]
)
def test_flags_that_only_look_like_a_models_name_none(extra: str, parser: argparse.ArgumentParser) -> None:
    assert model_of({"VLLM_EXTRA_ARGS": extra}, parser) == str(DEMO_MODEL_DIR)
    with pytest.raises(ConfigurationError, match="MODEL_NAME is not set"):
        model_of({"VLLM_EXTRA_ARGS": extra} | UNDER_RUNPOD, parser)


@pytest.mark.parametrize("name", FOREIGN.split())
def test_a_variable_of_another_program_does_not_warn(name: str, parser: argparse.ArgumentParser) -> None:
    assert vllm_parts.read_command_line(WorkerSettings(environment={name: "x"}), parser).warnings == ()


def test_the_workers_log_level_is_not_vllms(parser: argparse.ArgumentParser) -> None:
    assert model_of({"LOG_LEVEL": "debug", "MODEL_NAME": "a/b"}, parser) == "a/b"


def test_every_former_name_is_no_flag_any_more_and_its_replacement_is_one(parser: argparse.ArgumentParser) -> None:
    names = {name.upper() for name in flags_of(parser)} | set(HISTORICAL_NAMES)
    assert [name for name in FORMER_NAMES if name in names] == []
    replacements = {name for text in FORMER_NAMES.values() for name in re.findall(r"[A-Z]+(?:_[A-Z]+)+", text)}
    assert replacements - names - {"MODEL_NAME"} == set()


@pytest.mark.parametrize(
    ("environment", "variable", "words"),
    [
        ({"MAX_MODEL_LEN": "many"}, "MAX_MODEL_LEN", "MAX_MODEL_LEN=many"),
        ({"VLLM_DTYPE": "float3"}, "VLLM_DTYPE", "VLLM_DTYPE=float3"),
        ({"VLLM_EXTRA_ARGS": "--no-such-flag"}, "VLLM_EXTRA_ARGS", "no flag --no-such-flag"),
        ({"VLLM_EXTRA_ARGS": "--task embed"}, "VLLM_EXTRA_ARGS", "RUNNER=pooling"),
        ({"VLLM_EXTRA_ARGS": "--dtype float3"}, "VLLM_EXTRA_ARGS", "float3"),
        ({"VLLM_EXTRA_ARGS": "'"}, "VLLM_EXTRA_ARGS", "cannot be split"),
        ({"ENABLE_AUTO_TOOL_CHOICE": "true"}, "TOOL_CALL_PARSER", "requires --tool-call-parser"),
        ({"LORA_MODULES": '{"name": "a"}'}, "LORA_MODULES", "path"),
        ({"LORA_MODULES": "my adapter=/x"}, "LORA_MODULES", "Invalid JSON"),
        ({"SPECULATIVE_CONFIG": "{bad"}, "SPECULATIVE_CONFIG", "SPECULATIVE_CONFIG={bad"),
        ({"DEFAULT_CHAT_TEMPLATE_KWARGS": "{bad"}, "DEFAULT_CHAT_TEMPLATE_KWARGS", "{bad"),
        ({"ALLOWED_ORIGINS": "*"}, "ALLOWED_ORIGINS", "ALLOWED_ORIGINS=*"),
        ({"CHAT_TEMPLATE": "/no/such.jinja"}, "CHAT_TEMPLATE", "doesn't exist"),
        ({"CUSTOM_CHAT_TEMPLATE": "/no/such.jinja"}, "CUSTOM_CHAT_TEMPLATE", "doesn't exist"),
        ({"SSE_KEEP_ALIVE_INTERVAL": "-1"}, "SSE_KEEP_ALIVE_INTERVAL", "non-negative"),
        ({"MAX_LORA_RANK": "7"}, "MAX_LORA_RANK", "invalid choice: 7"),
        ({"CONFIG": "/no/such.yaml"}, "CONFIG", "/no/such.yaml"),
        ({"CONFIG": "/no/such.txt"}, "CONFIG", "yaml"),
        ({"ENABLE_LORA": "maybe"}, "ENABLE_LORA", "expected true or false"),
        ({"HF_TOKEN": "hf_secret", "VLLM_EXTRA_ARGS": "--hf-tokens hf_secret"}, "VLLM_EXTRA_ARGS", "no flag"),
    ],
)
def test_a_value_that_vllm_refuses_is_one_error_with_its_variable(
    environment: dict[str, str], variable: str, words: str, parser: argparse.ArgumentParser
) -> None:
    try:
        error = refusal({"MODEL_NAME": "x", **environment}, parser)
    except ConfigurationError as early:  # before vLLM's parser sees it
        error = early
    assert (error.param, error.retryable) == (variable, False)
    assert words in error.message
    assert variable in error.message
    assert "hf_secret" not in error.message
