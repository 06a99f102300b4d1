"""`deploy` from nothing to a real vLLM's answer on an emulated RunPod, twice without a change, and away again."""

from __future__ import annotations

import sys
from pathlib import Path

from runpod_emulator import Emulator, EndpointSettings, WorkerCommand
from tests.e2e.process import ROOT, Finished, run

KEY = "rpa_0123456789abcdef"
SECRET = "s3same-open"
SPEC = (
    *("--name", "demo", "--model", str(ROOT / "demo_model"), "--image", "you/worker:1", "--workers-max", "1"),
    *("--network-volume-gb", "20", "--data-center", "EU-RO-1", "--secrets", "WANDB_API_KEY"),
)


async def test_a_deployment_from_nothing_answers_twice_and_leaves_nothing(tmp_path: Path) -> None:
    worker = WorkerCommand(
        (sys.executable, "handler.py"),
        {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"},
        directory=ROOT,
        log_directory=tmp_path,
    )
    settings = EndpointSettings(endpoint_id="first", api_key=KEY, max_workers=1)
    async with Emulator(settings, worker, rest_quotas={}) as runpod:

        async def deploy(*arguments: str) -> Finished:
            ended = await run(
                *("-m", "vllm_service", "deploy", *arguments),
                RUNPOD_API_KEY=KEY,
                RUNPOD_REST_URL=runpod.origin,
                WANDB_API_KEY=SECRET,
                CONFIG_DIR=str(tmp_path),
            )
            assert not any(secret in ended.stdout + ended.stderr for secret in (KEY, SECRET))
            return ended

        first = await deploy("apply", *SPEC, "--write", "--json")
        assert first.code == 0, first.stderr
        assert [step["kind"] for step in first.document["steps"]] == ["network volume", "endpoint"]
        assert "Paris" in first.document["first_answer"]["text"]
        assert first.document["endpoint_id"] in (tmp_path / "providers.yaml").read_text(encoding="utf-8")
        second = await deploy("apply", *SPEC, "--json")
        assert (second.code, second.document["steps"]) == (0, [])
        assert (await deploy("plan", *SPEC, "--check")).code == 0
        assert (await deploy("status", "--name", "demo")).code == 0
        assert (await deploy("destroy", "--name", "demo")).code == 1, "without a terminal and --yes nothing goes"
        assert (await deploy("destroy", "--name", "demo", "--yes", "--volumes")).code == 0
        assert (await deploy("status", "--name", "demo")).code == 1
        assert list(runpod.account.endpoints) == ["first"]
        assert list(runpod.account.volumes.existing) == []
