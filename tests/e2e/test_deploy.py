"""`deploy` from nothing to a real vLLM's answer on an emulated RunPod, as processes that may be killed."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from runpod_emulator import Emulator, EndpointSettings, WorkerCommand
from tests.e2e.killing_proxy import KillingProxy, killing_proxy
from tests.e2e.process import ROOT, START_SECONDS, Finished, start
from tests.waiting import until

KEY = "rpa_0123456789abcdef"
SECRET = "s3same-open"
SETTINGS = EndpointSettings(endpoint_id="first", api_key=KEY, max_workers=1)
SPEC = (
    *("--name", "demo", "--model", str(ROOT / "demo_model"), "--image", "you/worker:1", "--workers-max", "1"),
    *("--network-volume-gb", "20", "--data-center", "EU-RO-1", "--secrets", "WANDB_API_KEY"),
)
#: With the template, so that there are three kinds of things to make.
ALL = (*SPEC, "--container", "template", "--gpu-pools", "ADA_24")
GONE = ("destroy", "--name", "demo", "--yes", "--volumes")


class Shell:
    """Runs `deploy` as a process with an emulated account."""

    def __init__(self, origin: str, directory: Path) -> None:
        self.origin = origin
        self.directory = directory

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        """Starts one command."""
        variables = {
            "RUNPOD_API_KEY": KEY,
            "RUNPOD_REST_URL": self.origin,
            "WANDB_API_KEY": SECRET,
            "CONFIG_DIR": str(self.directory),
        }
        return await start("-m", "vllm_service", "deploy", *arguments, variables=variables)

    async def __call__(self, *arguments: str) -> Finished:
        """Runs one command to its end. No secret is in what it prints."""
        return await ended(await self.start(*arguments))


async def ended(process: asyncio.subprocess.Process) -> Finished:
    async with asyncio.timeout(START_SECONDS):
        stdout, stderr = await process.communicate()
    finished = Finished(process.returncode or 0, stdout.decode(), stderr.decode())
    assert not any(secret in finished.stdout + finished.stderr for secret in (KEY, SECRET))
    return finished


def real_worker(logs: Path) -> WorkerCommand:
    return WorkerCommand(
        (sys.executable, "handler.py"),
        {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"},
        directory=ROOT,
        log_directory=logs,
    )


def held(emulator: Emulator) -> tuple[int, int, int]:
    """How many volumes, templates and endpoints there are, beside the first endpoint."""
    account = emulator.account
    return len(account.volumes.existing), len(account.templates), len(account.endpoints) - 1


async def test_a_deployment_from_nothing_answers_twice_and_leaves_nothing(tmp_path: Path) -> None:
    async with Emulator(SETTINGS, real_worker(tmp_path), rest_quotas={}) as runpod:
        deploy = Shell(runpod.origin, tmp_path)
        first = await deploy("apply", *SPEC, "--write", "--json")
        assert first.code == 0, first.stderr
        document = first.document
        assert [step["kind"] for step in document["steps"]] == ["network volume", "endpoint"]
        assert "Paris" in document["first_answer"]["text"]
        check_cold_start(document["first_answer"])
        assert document["endpoint_id"] in (tmp_path / "providers.yaml").read_text(encoding="utf-8")
        assert "ready after" in first.stderr, "the worker's log is shown while it starts"
        second = await deploy("apply", *SPEC, "--json")
        assert (second.code, second.document["steps"]) == (0, [])
        assert "Paris" in second.document["first_answer"]["text"]
        assert (await deploy("plan", *SPEC, "--check")).code == 0
        status = await deploy("status", "--name", "demo", "--json")
        assert len(status.document["endpoints"][0]["workers"]) == 1
        logs = await deploy("logs", "--name", "demo", "--json")
        assert any("cold_start" in line["text"] for line in logs.document["lines"])
        assert (await deploy("destroy", "--name", "demo")).code == 1, "without a terminal and --yes nothing goes"
        assert (await deploy(*GONE)).code == 0
        assert (await deploy("status", "--name", "demo")).code == 1
        assert held(runpod) == (0, 0, 0)
        assert (await deploy(*GONE)).code == 0
        await until(
            lambda: all(
                worker.exit_code is not None
                for one in runpod.account.deleted
                for worker in one.state.registry.workers.values()
            )
        )


def check_cold_start(answer: dict[str, Any]) -> None:
    """The phases are the worker's own, and cost what its GPU costs."""
    start = answer["cold_start"]
    assert {"import", "load"} <= {phase["name"] for phase in start["phases"]}
    assert answer["worker"]["usd_per_second"] == "0.00016"
    assert float(start["usd"]) == pytest.approx(float(start["seconds"]) * 0.00016, rel=1e-6)
    assert float(start["seconds"]) <= float(answer["wait_seconds"])


async def killed_at(proxy: KillingProxy, deploy: Shell, number: int, *arguments: str) -> bool:
    """Runs a command that is killed at one of its requests; returns false where it ended before."""
    proxy.reset(number)
    process = await deploy.start(*arguments)
    proxy.victim = process
    await ended(process)
    was_killed = len(proxy.came) > number
    assert (process.returncode == -signal.SIGKILL) is was_killed
    proxy.reset(None)
    return was_killed


async def test_killed_at_every_request_and_run_again_it_ends_the_same(tmp_path: Path) -> None:
    """Killed when RunPod has carried the request out; before that is a test of the reconciliation."""
    apply = ("apply", *ALL, "--no-wait", "--json")
    async with Emulator(SETTINGS, rest_quotas={}) as runpod, killing_proxy(runpod.origin) as proxy:
        deploy = Shell(proxy.origin, tmp_path)
        number = 0
        while await killed_at(proxy, deploy, number, *apply):
            again = await deploy(*apply)
            assert again.code == 0, f"{number}: {again.stderr}"
            assert held(runpod) == (1, 1, 1), f"killed at request {number}"
            # destroy is killed at the same number, and run again.
            await killed_at(proxy, deploy, number, *GONE)
            assert (await deploy(*GONE)).code == 0
            assert held(runpod) == (0, 0, 0), f"killed at request {number}"
            number += 1
        assert number >= 9


async def test_killed_while_it_waits_and_run_again_it_gets_the_answer(tmp_path: Path) -> None:
    async with Emulator(SETTINGS, real_worker(tmp_path), rest_quotas={}) as runpod:
        deploy = Shell(runpod.origin, tmp_path)
        process = await deploy.start("apply", *SPEC)
        await until(lambda: any(one.state.store.load().queued for one in runpod.account.endpoints.values()))
        process.kill()
        await ended(process)
        again = await deploy("apply", *SPEC, "--json")
        assert again.code == 0, again.stderr
        assert again.document["steps"] == []
        assert "Paris" in again.document["first_answer"]["text"]
        assert held(runpod) == (1, 0, 1)
        assert (await deploy(*GONE)).code == 0
        assert held(runpod) == (0, 0, 0)


async def test_ctrl_c_says_what_exists_and_what_it_costs(tmp_path: Path) -> None:
    async with Emulator(SETTINGS, rest_quotas={}) as runpod:
        deploy = Shell(runpod.origin, tmp_path)
        process = await deploy.start("apply", *SPEC, "--json")
        await until(lambda: any(one.state.store.load().queued for one in runpod.account.endpoints.values()))
        process.send_signal(signal.SIGINT)
        finished = await ended(process)
        assert finished.code == 130, finished.stderr
        assert [one["kind"] for one in finished.document["holdings"]] == ["network volume", "endpoint"]
        assert finished.document["usd_per_hour"] == "0.001917808"
        assert "not done: interrupted" in finished.stderr
        assert "Traceback" not in finished.stderr
        assert not any(one.state.store.load().queued for one in runpod.account.endpoints.values())
