"""Writes the configuration of `make serve`: one model that the own endpoint and two hosted providers offer."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from handler.settings import DEMO_FLAGS, DEMO_MODEL_DIR, DEMO_MODEL_NAME
from vllm_service.settings import ServiceSettings

OWN = "own"
HOSTED = ("hosted-1", "hosted-2")
ENDPOINT_ID = "emulated"
#: An RTX 4090 at RunPod, November 2026. The emulator's bill, the router and the page all count with it.
USD_PER_SECOND = "0.00031"
#: gpt-4o at OpenAI, November 2026, per million tokens: what both hosted providers bill, and what the savings are
#: counted against. A model this small has no price of its own; this one makes a few requests a second worth a GPU.
INPUT_USD = "2.50"
OUTPUT_USD = "10.00"
AS_OF = "2026-11-28"
#: The share of requests that the first hosted provider refuses, so that failing over can be seen.
REFUSED_SHARE = 0.05
IDLE_TIMEOUT_SECONDS = 5
#: An estimate until the router has measured: the demo model's start on two cores.
COLD_START_SECONDS = 12
#: Generous, because the worker has no GPU and shares the machine with everything else here.
LATENCY_TARGET_SECONDS = 15
PAIRS = DEMO_MODEL_DIR / "pairs.jsonl"


def write(directory: Path, emulator_url: str) -> None:
    """Writes hosted.json for the emulator, providers.yaml and models.yaml for the gateway."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "hosted.json").write_text(json.dumps({"providers": [_hosted(name) for name in HOSTED]}, indent=2))
    (directory / "providers.yaml").write_text(_providers(emulator_url))
    (directory / "models.yaml").write_text(_models())


def emulator_arguments(directory: Path, port: int) -> tuple[str, ...]:
    """Returns the emulator's options: no worker until one is woken, and the hosted providers beside it."""
    return (
        *("--endpoint-id", ENDPOINT_ID, "--port", str(port), "--min-workers", "0", "--max-workers", "1"),
        *("--usd-per-second", USD_PER_SECOND, "--idle-timeout", str(IDLE_TIMEOUT_SECONDS)),
        *("--hosted", str(directory / "hosted.json"), "--worker-logs", str(directory / "worker-logs")),
    )


def gateway_variables(directory: Path, port: int) -> dict[str, str]:
    """Returns the gateway's variables. Those of the shell are emptied: a DATABASE_URL there is somebody's ledger."""
    empty = {setting.metadata["variable"]: "" for setting in fields(ServiceSettings) if "variable" in setting.metadata}
    return empty | {
        "SERVICE_PORT": str(port),
        "CONFIG_DIR": str(directory),
        "DATA_DIR": str(directory / "data"),
    }


def worker_variables() -> dict[str, str]:
    """Returns the worker's variables for the demo model with adapter and tools; MODEL_NAME is vLLM's `model`."""
    flags = {name.upper(): value for name, value in DEMO_FLAGS.items() if name != "model"}
    # At temperature 1, which callers get who set none, a model this small misspells what it knows by heart.
    sampling = {"OVERRIDE_GENERATION_CONFIG": json.dumps({"temperature": 0.1})}
    return flags | sampling | {"MODEL_NAME": DEMO_FLAGS["model"], "HF_HUB_OFFLINE": "1"}


def _hosted(name: str) -> dict[str, Any]:
    model = {
        "id": DEMO_MODEL_NAME,
        "input_usd": INPUT_USD,
        "output_usd": OUTPUT_USD,
        "answers_file": str(PAIRS),
    }
    faults = {"error_503_share": REFUSED_SHARE, "seed": 1} if name == HOSTED[0] else {}
    return {"name": name, "models": [model], "ttft_seconds": 0.3, "tokens_per_second": 80, "faults": faults}


def _providers(emulator_url: str) -> str:
    hosted = "".join(
        f"""
  {name}:
    base_url: {emulator_url}/hosted/{name}/v1
    prices:
      {DEMO_MODEL_NAME}: {{ input: {INPUT_USD}, output: {OUTPUT_USD}, as_of: {AS_OF} }}"""
        for name in HOSTED
    )
    return f"""# Written by `make serve`.
providers:
  {OWN}:
    endpoint_id: {ENDPOINT_ID}
    api_url: {emulator_url}
    usd_per_second: {USD_PER_SECOND}
    as_of: {AS_OF}
    expected:
      max_workers: 1
      cold_start_seconds: {COLD_START_SECONDS}
      idle_timeout_seconds: {IDLE_TIMEOUT_SECONDS}{hosted}
"""


def _models() -> str:
    offers = "\n".join(f"      - {{ provider: {name}, model: {DEMO_MODEL_NAME} }}" for name in (OWN, *HOSTED))
    return f"""# Written by `make serve`.
baseline: {HOSTED[0]}/{DEMO_MODEL_NAME}
models:
  {DEMO_MODEL_NAME}:
    description: The bundled demo model, on the emulated endpoint and at two emulated hosted providers
    context_length: 2048
    latency_target_seconds: {LATENCY_TARGET_SECONDS}
    offers:
{offers}
"""
