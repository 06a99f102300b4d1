"""Whatever vLLM raises while it starts becomes one error that names the variable, the cause and what to do."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
from collections.abc import Mapping

import pytest

from handler.engine.arguments import command_line
from handler.engine.engine_log import EngineLog
from handler.engine.loading import explained
from handler.engine.start_errors import start_error, tidy
from handler.errors import EngineUnavailable, WorkerError

DEAD_CORE = RuntimeError(
    "Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}"
)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(exit_on_error=False)
    for flag in ("model", "max-model-len", "kv-cache-memory-bytes", "tensor-parallel-size", "quantization", "hf-token"):
        made.add_argument(f"--{flag}")
    return made


def error_of(error: Exception, cause: str | None = None, environment: Mapping[str, str] | None = None) -> WorkerError:
    return start_error(error, command_line(parser(), environment or {}, {}), parser(), cause)


# What vLLM 0.32 and the libraries below it really say.
TABLE = [
    ("ValueError: LoRA is not enabled. Use --enable-lora to enable LoRA.", "LORA_MODULES", "ENABLE_LORA=true", False),
    ("ValueError: LoRA rank 8 is greater than max_lora_rank 1.", "MAX_LORA_RANK", "MAX_LORA_RANK", False),
    ("KeyError: 'invalid tool call parser: x (chose from { a })'", "TOOL_CALL_PARSER", "TOOL_CALL_PARSER", False),
    ("KeyError: \"Reasoning parser 'x' not found.\"", "REASONING_PARSER", "leave it out", False),
    ("VLLMValidationError: The supplied chat template (/x) looks like", "CHAT_TEMPLATE", "readable file", False),
    ("ValueError: No available memory for the cache blocks. Try", "MAX_MODEL_LEN", "KV_CACHE_MEMORY_BYTES", False),
    (
        "ValueError: To serve at least one request with the model's max seq len (8192), (1.0 GiB KV cache is needed, "
        "which is larger than the available KV cache memory (0.5 GiB).",
        "MAX_MODEL_LEN",
        "smaller MAX_MODEL_LEN",
        False,
    ),
    (
        "ValueError: User-specified max_model_len (9) is greater than the derived max_model_len (8)",
        "MAX_MODEL_LEN",
        "leave it out",
        False,
    ),
    (
        "ValueError: Free memory on device cuda:0 (1/80 GiB) on startup is less than desired GPU memory utilization",
        "GPU_MEMORY_UTILIZATION",
        "Another process",
        True,
    ),
    ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB.", "MODEL_NAME", "smaller or quantized", False),
    ("SafetensorError: Error while deserializing header: incomplete metadata", "MODEL_NAME", "truncated", False),
    ("RuntimeError: Cannot find any model weights with `/m`", "MODEL_NAME", "missing", False),
    ("RuntimeError: The size of tensor a (384) must match the size", "MODEL_NAME", "config.json", False),
    ("RuntimeError: Address already in use", "MASTER_PORT", "another port", True),
]


@pytest.mark.parametrize(("cause", "variable", "remedy", "retryable"), TABLE, ids=[row[0][:40] for row in TABLE])
def test_the_cause_from_the_dead_process_is_explained(cause: str, variable: str, remedy: str, retryable: bool) -> None:
    error = error_of(DEAD_CORE, cause)
    assert (error.param, error.retryable) == (variable, retryable)
    assert error.message.startswith(f"{variable}: ")
    assert cause.split(": ", 1)[1][:20].strip("\"'") in error.message
    assert remedy in error.message


def test_too_little_memory_is_blamed_on_the_variable_that_limits_it() -> None:
    cause = "ValueError: No available memory for the cache blocks."
    given = {"MAX_MODEL_LEN": "9", "KV_CACHE_MEMORY_BYTES": "1K"}
    assert error_of(DEAD_CORE, cause, given).param == "KV_CACHE_MEMORY_BYTES"
    by_default = command_line(parser(), {}, {"kv_cache_memory_bytes": "1G"})
    assert start_error(DEAD_CORE, by_default, parser(), cause).param == "KV_CACHE_MEMORY_BYTES"
    assert error_of(DEAD_CORE, cause, {"MAX_MODEL_LEN": "9"}).param == "MAX_MODEL_LEN"


def test_a_message_that_no_rule_has_is_blamed_on_the_variable_whose_flag_it_names() -> None:
    given = {"VLLM_TENSOR_PARALLEL_SIZE": "3", "MODEL": "x"}
    error = error_of(
        ValueError("Heads (4) must be divisible by tensor parallel size (tensor_parallel_size)."), None, given
    )
    assert (error.param, error.retryable) == ("VLLM_TENSOR_PARALLEL_SIZE", False)
    assert "it is 3 now" in error.message


@pytest.mark.parametrize(
    ("message", "variable"),
    [
        ("Invalid repository ID or local directory specified: '/no/such'.", "GENERATION_CONFIG"),
        ("No module named 'odd'", "MIDDLEWARE"),
        ("Total heads (6) must be divisible by tensor parallel size (8)", "TENSOR_PARALLEL_SIZE"),
    ],
)
def test_what_a_message_quotes_leads_to_the_variable_that_says_it(message: str, variable: str) -> None:
    made = parser()
    for flag in ("generation-config", "middleware"):
        made.add_argument(f"--{flag}")
    given = {
        "MODEL_NAME": "/m",
        "GENERATION_CONFIG": "/no/such",
        "MIDDLEWARE": "odd.thing",
        "TENSOR_PARALLEL_SIZE": "8",
    }
    error = start_error(RuntimeError(message), command_line(made, given, {}), made)
    assert (error.param, error.retryable) == (variable, False)


def test_a_message_that_names_only_a_value_inside_json_is_blamed_on_the_variable_that_has_it() -> None:
    given = {"MODEL_NAME": "org/model", "QUANTIZATION": '{"kind": "Nope", "role": "both"}'}
    assert error_of(ValueError("Unsupported connector type: Nope"), None, given).param == "QUANTIZATION"
    assert error_of(ValueError("Unsupported connector role: kind"), None, given).param is None


@pytest.mark.parametrize(
    ("extra", "message", "variable"),
    [
        ("--quantization nosuch", "unknown method: nosuch", "VLLM_EXTRA_ARGS"),
        ("--quantization=nosuch", "unknown method: nosuch", "VLLM_EXTRA_ARGS"),
        ("--tensor-parallel-size 3", "must be divisible by tensor_parallel_size", "VLLM_EXTRA_ARGS"),
        ("--max-model-len 9", "No available memory for the cache blocks", "VLLM_EXTRA_ARGS"),
        ("--quantization other", "unknown method: nosuch", None),
    ],
)
def test_the_extra_arguments_are_blamed_for_what_they_set(extra: str, message: str, variable: str | None) -> None:
    error = error_of(RuntimeError(message), None, {"VLLM_EXTRA_ARGS": extra})
    assert (error.param, error.retryable) == (variable, variable is None)


def test_a_message_that_names_only_a_value_is_blamed_on_the_variable_that_has_it() -> None:
    assert error_of(ValueError("unknown method: nosuch"), None, {"QUANTIZATION": "nosuch"}).param == "QUANTIZATION"


@pytest.mark.parametrize(
    ("error", "cause", "retryable"),
    [
        (RuntimeError("odd"), None, True),
        (ValueError("odd"), None, False),
        (ImportError("no module"), None, False),
        (DEAD_CORE, None, True),
        (DEAD_CORE, "NotImplementedError: odd", False),
        (DEAD_CORE, "torch.AcceleratorError: CUDA error: an illegal memory access", True),
    ],
)
def test_only_what_may_go_away_by_itself_is_retryable(error: Exception, cause: str | None, retryable: bool) -> None:
    assert error_of(error, cause).retryable is retryable


def test_the_value_of_a_secret_stays_out_of_the_message() -> None:
    error = error_of(ValueError("bad hf_token hf_secret"), None, {"HF_TOKEN": "hf_secret"})
    assert error.param == "HF_TOKEN"
    assert "hf_secret" not in error.message


def test_a_message_is_one_line_without_what_pydantic_adds() -> None:
    text = (
        "1 validation error for ModelConfig\n  Value error, Unknown quantization method: x. [type=value_error, "
        "input_value=ArgsKwargs((), {...}), input_type=ArgsKwargs]\n    For further information visit https://e.x/v/1"
    )
    assert tidy(text) == "Unknown quantization method: x."
    assert tidy(f"ValidationError: {text}") == "Unknown quantization method: x."
    assert len(tidy("x" * 10_000)) < 700


def test_the_log_of_a_forked_process_says_why_it_did_not_start() -> None:
    def fail() -> None:
        logger = logging.getLogger("vllm.v1.engine.core")
        for text in ("the worker", "the core"):
            logger.error("Engine%s failed to start.", text, exc_info=ValueError(f"root cause in {text}"))

    with EngineLog() as log:
        child = multiprocessing.get_context("fork").Process(target=fail)
        child.start()
        child.join()
        assert log.cause() == "ValueError: root cause in the worker"
    assert log not in logging.getLogger("vllm.v1.engine.core").filters


def test_other_errors_in_the_log_are_not_taken_for_the_cause() -> None:
    with EngineLog() as log:
        logging.getLogger("vllm.v1.engine.core").error("warming up", exc_info=ValueError("a passing trouble"))
        logging.getLogger("vllm.v1.engine.core").error("a process failed to start")
        assert log.cause() is None


def test_a_workers_own_error_passes_and_any_other_is_explained() -> None:
    own = EngineUnavailable("mine")
    with pytest.raises(EngineUnavailable) as raised, explained(command_line(parser(), {}, {}), parser()):
        raise own
    assert raised.value is own
    with (
        pytest.raises(WorkerError, match="vLLM cannot start: KeyError"),
        explained(command_line(parser(), {}, {}), parser()),
    ):
        raise KeyError("x")
