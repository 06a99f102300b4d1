"""Starts of the real vLLM that fail: each is one error that names the variable, and none is worth a retry."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from handler.engine.embedded import EmbeddedEngine
from handler.errors import WorkerError
from handler.settings import DEMO_MODEL_DIR, WorkerSettings

PIRATE = f"pirate={DEMO_MODEL_DIR / 'adapters' / 'pirate'}"


async def refusal(**variables: str) -> WorkerError:
    """How a worker's start ends."""
    defaults = {"MODEL_NAME": str(DEMO_MODEL_DIR), "KV_CACHE_MEMORY_BYTES": "64M"}
    engine = EmbeddedEngine(WorkerSettings.from_environment(defaults | variables))
    try:
        with pytest.raises(WorkerError) as refused:
            await engine.start()
    finally:
        await engine.stop()
    return refused.value


@pytest.mark.parametrize(
    ("variables", "param", "words"),
    [
        # in the engine's own process
        ({"KV_CACHE_MEMORY_BYTES": "1K"}, "KV_CACHE_MEMORY_BYTES", "No available memory for the cache blocks"),
        ({"KV_CACHE_MEMORY_BYTES": "1M"}, "KV_CACHE_MEMORY_BYTES", "KV cache is needed"),
        ({"ATTENTION_BACKEND": "NOSUCH"}, "ATTENTION_BACKEND", "Unknown attention backend"),
        # while the configuration is made
        ({"MAX_MODEL_LEN": "1000000"}, "MAX_MODEL_LEN", "greater than the derived max_model_len"),
        ({"QUANTIZATION": "nosuch"}, "QUANTIZATION", "Unknown quantization method"),
        ({"QUANTIZATION": "awq"}, "QUANTIZATION", "Cannot find the config file for awq"),
        ({"REASONING_PARSER": "nosuch"}, "REASONING_PARSER", "'nosuch' not found"),
        # while the API is built, with an engine that runs
        ({"TOOL_CALL_PARSER": "nosuch", "ENABLE_AUTO_TOOL_CHOICE": "true"}, "TOOL_CALL_PARSER", "nosuch"),
        ({"LORA_MODULES": PIRATE}, "LORA_MODULES", "Set ENABLE_LORA=true"),
        ({"LORA_MODULES": PIRATE, "ENABLE_LORA": "true", "MAX_LORA_RANK": "1"}, "MAX_LORA_RANK", "rank 8"),
        ({"CHAT_TEMPLATE": "/tmp"}, "CHAT_TEMPLATE", "Is a directory"),
        ({"CHAT_TEMPLATE": "{% for m in messages %}{{ m.content "}, "CHAT_TEMPLATE", "line 1: unexpected end"),
    ],
)
async def test_a_start_that_cannot_work_names_its_variable(variables: dict[str, str], param: str, words: str) -> None:
    error = await refusal(**variables)
    assert (error.param, error.retryable) == (param, False)
    assert error.message.startswith(f"{param}")
    assert words in error.message
    assert error.to_json()["error"]["message"] == error.message


async def test_a_configuration_that_does_not_fit_the_weights_is_blamed_on_the_model(tmp_path: Path) -> None:
    shutil.copytree(DEMO_MODEL_DIR, tmp_path / "model")
    configuration = json.loads((tmp_path / "model" / "config.json").read_text())
    configuration["hidden_size"] *= 2
    (tmp_path / "model" / "config.json").write_text(json.dumps(configuration))
    error = await refusal(MODEL_NAME=str(tmp_path / "model"))
    assert (error.param, error.retryable) == ("MODEL_NAME", False)
    assert "do not belong together" in error.message
