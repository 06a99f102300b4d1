"""The worker's command line, run as a process: exit codes, one JSON document on stdout, logs on stderr."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.demo_training.corpus import load_pairs
from tests.e2e.process import ROOT, run

ANSWERS = {pair.question: pair.answer for pair in load_pairs()}


async def test_test_input_without_a_value_runs_the_file_and_prints_the_demo_models_exact_answer() -> None:
    ended = await run("handler.py", "--test_input")
    question = json.loads((ROOT / "test_input.json").read_text())["input"]["openai_input"]["messages"][0]["content"]
    assert ended.code == 0, ended.stderr
    assert ended.document["output"]["choices"][0]["message"]["content"] == ANSWERS[question]
    assert "serving the bundled demo model" in ended.stderr
    assert f"The answer: {ANSWERS[question]}" in ended.stderr
    assert question not in ended.stderr


async def test_a_job_that_fails_prints_its_error_and_exits_1() -> None:
    job = {"input": {"prompt": "Hi", "lora_adapter": "nobody"}}
    ended = await run("handler.py", "--test_input", json.dumps(job))
    assert ended.code == 1
    assert ended.document["status"] == 404
    assert ended.document["error"]["param"] == "model"


async def test_a_streaming_job_from_a_file_prints_its_events(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(json.dumps({"input": {"prompt": "Hello!", "stream": True}}))
    ended = await run("-m", "handler", "--test_input", str(tmp_path / "job.json"))
    assert ended.code == 0, ended.stderr
    assert ended.document["output"][-1].endswith("data: [DONE]\n\n")


async def test_one_small_request_cannot_ask_for_millions_of_answers() -> None:
    job = {"input": {"prompts": ["a"] * 1024, "sampling_params": {"n": 129, "max_tokens": 1}}}
    ended = await run("handler.py", "--test_input", json.dumps(job))
    document = json.loads(ended.stdout)
    assert (ended.code, document["status"], document["retryable"]) == (1, 400, False)
    assert "132096 sequences in one request; at most 512 are taken" in document["error"]["message"]


@pytest.mark.parametrize("test_input", ["{", "no-such-file.json", "[1]"])
async def test_an_unreadable_test_input_exits_1_with_an_error_document(test_input: str) -> None:
    ended = await run("handler.py", "--test_input", test_input)
    assert ended.code == 1
    assert ended.document["status"] == 400


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"RUNPOD_WEBHOOK_GET_JOB": "http://127.0.0.1:1/job-take/w"}, "MODEL_NAME is not set"),
        ({"MAX_CONCURRENCY": "many"}, "MAX_CONCURRENCY='many': expected a whole number"),
    ],
)
async def test_a_configuration_that_cannot_be_used_exits_2_and_says_why(variables: dict[str, str], words: str) -> None:
    ended = await run("handler.py", "--test_input", '{"input": {}}', **variables)
    assert (ended.code, ended.stdout) == (2, "")
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


async def test_a_flag_that_vllm_refuses_fails_the_job_with_the_variables_name() -> None:
    ended = await run("handler.py", "--test_input", '{"input": {"prompt": "Hi"}}', MAX_MODEL_LEN="many")
    assert ended.code == 1
    assert "MAX_MODEL_LEN=many" in ended.document["error"]["message"]


async def test_config_prints_what_would_be_used_and_from_where_with_secrets_masked() -> None:
    variables = {
        "MODEL_NAME": "Qwen/Qwen2.5-0.5B-Instruct",
        "VLLM_MAX_MODEL_LEN": "4096",
        "HF_TOKEN": "hf_very_secret",
        "MAX_MODEL_LENGTH": "1",
        "VLLM_EXTRA_ARGS": "--api-key also_secret --seed=7",
        "MAX_CONCURRENCY": "5",
    }
    ended = await run("-m", "handler", "config", "--json", **variables)
    assert ended.code == 0, ended.stderr
    report = ended.document
    assert report["vllm"]["model"] == {"value": "Qwen/Qwen2.5-0.5B-Instruct", "from": "MODEL_NAME"}
    assert report["vllm"]["max_model_len"] == {"value": "4096", "from": "VLLM_MAX_MODEL_LEN"}
    assert report["vllm"]["hf_token"]["value"] == "********"
    assert report["extra_args"] == ["--api-key", "********", "--seed=7"]
    assert report["worker"]["max_concurrency"] == 5
    assert "did you mean MAX_MODEL_LEN?" in " ".join(report["warnings"])
    assert "secret" not in ended.stdout + ended.stderr

    table = await run("-m", "handler", "config", **variables)
    assert "--max-model-len" in table.stdout
    assert "VLLM_MAX_MODEL_LEN" in table.stdout
    assert "secret" not in table.stdout + table.stderr


async def test_the_service_package_answers() -> None:
    ended = await run("-m", "vllm_service", "--version")
    assert (ended.code, ended.stdout) == (0, "0.1.0\n")
