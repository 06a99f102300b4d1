"""`deploy apply`, `status` and `destroy` as their users run them, against the emulator; no output holds a secret."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from runpod_emulator import Emulator, Faults, WorkerCommand
from tests.contract.rest_contract import checked_emulator
from tests.vllm_service.deployment.deployed import FIRST, KEY, SECRET, held
from vllm_service.cli.deploy import ACTIONS
from vllm_service.cli.exit_codes import FAILED, NOT_READY
from vllm_service.cli.parser import parse
from vllm_service.errors import ConfigurationError, ServiceError

#: What another variable of the endpoint holds, which this machine does not know.
ANOTHER = "sk_known_to_runpod_only"
LEAST = ("--model", "org/name", "--image", "you/worker:1", "--name", "demo", "--gpu-pools", "ADA_24")
VOLUME = ("--network-volume-gb", "20", "--data-center", "EU-RO-1")
NAMED = ("--name", "demo")


@dataclass
class Shell:
    """Runs verbs of `deploy` with the emulator's account."""

    emulator: Emulator
    directory: Path
    capsys: pytest.CaptureFixture[str]
    progress: str = ""
    output: str = ""

    async def __call__(self, *arguments: str, **variables: str) -> int:
        """Returns the exit code; what was printed is in `output` and `progress`. Raises ServiceError."""
        environment = {
            "RUNPOD_API_KEY": KEY,
            "RUNPOD_REST_URL": self.emulator.origin,
            "MY_TOKEN": SECRET,
            "CONFIG_DIR": str(self.directory),
            **variables,
        }
        text = io.StringIO()
        options = parse(["deploy", *arguments])
        action: Any = ACTIONS[options.action]
        try:
            code: int = await asyncio.to_thread(action.run, options, environment, Console(file=text, width=200))
        finally:
            self.progress, self.output = text.getvalue(), self.capsys.readouterr().out
            for secret in (KEY, SECRET, ANOTHER):
                assert secret not in self.progress + self.output
        return code

    def document(self) -> dict[str, Any]:
        """What was printed as JSON."""
        document: dict[str, Any] = json.loads(self.output)
        return document


@pytest.fixture
async def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[Shell]:
    async with checked_emulator(FIRST, ours=True) as (emulator, _):
        yield Shell(emulator, tmp_path, capsys)


async def test_it_is_made_once_shown_and_destroyed(shell: Shell) -> None:
    apply = ("apply", *LEAST, *VOLUME, "--no-wait", "--write", "--secrets", "HF_TOKEN=MY_TOKEN")
    assert await shell(*apply) == 0
    assert "demo stands: endpoint " in shell.output
    assert "create network volume demo; create endpoint demo" in shell.output
    assert "At RunPod now: $0.0019 an hour; without requests $0.0019 an hour" in shell.output
    entry = (shell.directory / "providers.yaml").read_text()
    assert "api_key_env: RUNPOD_API_KEY" in entry
    assert "usd_per_second: 0.00031" in entry
    assert await shell(*apply) == 0
    assert "nothing had to be changed" in shell.output
    assert (shell.directory / "providers.yaml").read_text() == entry
    assert await shell("status", *NAMED) == 0
    assert "workers 0 to 3; now no worker" in shell.output
    assert "release 1 of " in shell.output
    assert await shell("destroy", *NAMED, "--yes") == 0
    assert "stays, billed: network volume demo" in shell.progress
    assert await shell("destroy", *NAMED, "--yes", "--volumes", "--json") == 0
    assert [one["kind"] for one in shell.document()["deleted"]] == ["network volume"]
    assert held(shell.emulator) == ([], [], [])
    assert await shell("status", *NAMED) == FAILED
    assert "Nothing of it exists at RunPod, so nothing is billed." in shell.output


async def test_a_volume_of_the_same_name_elsewhere_is_neither_shown_nor_deleted(shell: Shell) -> None:
    (shell.directory / "deploy.yaml").write_text(
        "model: org/name\nimage: you/worker:1\nname: demo\ngpu_pools: [ADA_24]\n"
        "network_volume_gb: 20\ndata_center: EU-RO-1\n"
    )
    file = ("--file", str(shell.directory / "deploy.yaml"))
    other = shell.emulator.account.volumes.create("demo", 4000, "US-KS-2")
    assert await shell("apply", *file, "--no-wait") == 0
    assert await shell("status", *file) == 0
    assert other.id not in shell.output
    assert await shell("destroy", *NAMED, "--yes", "--volumes", "--data-center", "EU-RO-1") == 0
    assert [volume.id for volume in shell.emulator.account.volumes.existing] == [other.id]
    assert await shell("destroy", *file, "--yes", "--volumes") == 0
    assert held(shell.emulator)[0] == ["demo"]


async def test_json_is_the_document_alone_with_exact_amounts(shell: Shell) -> None:
    assert await shell("apply", *LEAST, "--workers-min", "1", "--no-wait", "--json") == 0
    document = shell.document()
    assert [step["kind"] for step in document["steps"]] == ["endpoint"]
    assert document["idle_usd_per_hour"] == "1.116"
    assert document["provider"]["entry"]["expected"]["always_on_workers"] == 1
    assert await shell("status", *NAMED, "--json") == 0
    assert shell.document()["endpoints"][0]["workers_max"] == 3


async def test_a_failure_half_way_says_what_exists_and_what_it_costs(shell: Shell) -> None:
    shell.emulator.inject(Faults(rest="422", rest_on="POST /v2/serverless"))
    assert await shell("apply", *LEAST, *VOLUME, "--no-wait", "--json") == FAILED
    document = shell.document()
    assert "RunPod answered 422" in document["error"]
    assert [one["kind"] for one in document["holdings"]] == ["network volume"]
    assert document["usd_per_hour"] == "0.001917808"
    assert "network volume demo" in shell.progress
    assert "Run `deploy apply` again to go on" in shell.progress


@pytest.mark.parametrize("fault", ["no mapping", "a directory", "no directory"])
async def test_an_entry_that_cannot_be_written_loses_nothing_of_the_result(shell: Shell, fault: str) -> None:
    if fault == "no mapping":
        (shell.directory / "providers.yaml").write_text("- demo")
    elif fault == "a directory":
        (shell.directory / "providers.yaml").mkdir()
    directory = shell.directory / "away" if fault == "no directory" else shell.directory
    assert await shell("apply", *LEAST, "--no-wait", "--write", "--json", CONFIG_DIR=str(directory)) == FAILED
    assert shell.document()["endpoint_id"]
    assert "the deployment stands, but its entry was not written: " in shell.progress
    assert "providers.yaml" in shell.progress


async def test_the_log_of_a_worker_that_was_never_there_is_no_endless_wait(shell: Shell) -> None:
    assert await shell("apply", *LEAST, "--no-wait") == 0
    with pytest.raises(ServiceError, match="RunPod answered 404"):
        await asyncio.wait_for(shell("logs", *NAMED, "--follow", "--worker", "nope"), 30)


async def test_why_workers_cannot_be_listed_is_said(shell: Shell) -> None:
    assert await shell("apply", *LEAST, "--no-wait") == 0
    (endpoint,) = [one for one in shell.emulator.account.endpoints.values() if one.id != "first"]
    shell.emulator.inject(Faults(rest="403", rest_on=f"GET /v2/serverless/{endpoint.id}/workers"))
    with pytest.raises(ServiceError, match="RunPod answered 403"):
        await shell("logs", *NAMED)
    with pytest.raises(ServiceError, match="RunPod answered 403"):
        await asyncio.wait_for(shell("logs", *NAMED, "--follow"), 30)


async def test_without_an_answer_in_time_it_says_why_and_takes_its_job_back(shell: Shell) -> None:
    assert await shell("apply", *LEAST, "--wait", "0.5") == NOT_READY
    assert "no answer after 0 s: RunPod has not begun to start a worker" in shell.progress
    assert "endpoint demo" in shell.progress
    (endpoint,) = [one for one in shell.emulator.account.endpoints.values() if one.id != "first"]
    assert endpoint.state.store.load().queued == 0


async def test_a_scaled_down_endpoint_is_shown_and_put_back(shell: Shell) -> None:
    (shell.directory / "deploy.yaml").write_text(
        "model: org/name\nimage: you/worker:1\nname: demo\ngpu_pools: [ADA_24]\n"
    )
    file = ("--file", str(shell.directory / "deploy.yaml"))
    assert await shell("apply", *file, "--no-wait") == 0
    (endpoint,) = [one for one in shell.emulator.account.endpoints.values() if one.id != "first"]
    endpoint.state.change(max_workers=2)
    assert await shell("status", *file) == 0
    assert "2 workers instead of 3" in shell.output
    assert await shell("apply", *file, "--no-wait") == 0
    assert "change endpoint demo (workers.max)" in shell.output
    assert endpoint.state.settings.max_workers == 3


async def test_values_that_only_runpod_knows_are_concealed_when_it_repeats_them(shell: Shell) -> None:
    assert await shell("apply", *LEAST, "--no-wait") == 0
    (endpoint,) = [one for one in shell.emulator.account.endpoints.values() if one.id != "first"]
    config = endpoint.config
    container = type(config.container)(image=ANOTHER, env={"DEPLOYMENT_NAME": "demo", "API_KEY": ANOTHER})
    shell.emulator.account.change(endpoint, type(config)(name="demo", container=container, gpu=config.gpu), {})
    assert await shell("status", *NAMED, "--json") == 0


@pytest.mark.parametrize(
    ("arguments", "variables", "reason"),
    [
        (("apply", *LEAST), {"RUNPOD_API_KEY": ""}, "RUNPOD_API_KEY is not set"),
        (("apply", *LEAST), {"RUNPOD_REST_URL": "http://192.0.2.1"}, "over http the key could be read"),
        (("apply", *LEAST, "--secrets", "HF_TOKEN=NOT_SET"), {}, "NOT_SET is not set on this machine"),
        (("status",), {}, "which deployment"),
        (("logs", *NAMED), {}, "RunPod has no endpoint of the deployment 'demo'"),
    ],
)
async def test_what_is_missing_is_said(
    shell: Shell, arguments: tuple[str, ...], variables: dict[str, str], reason: str
) -> None:
    with pytest.raises(ServiceError, match=reason):
        await shell(*arguments, **variables)
    assert held(shell.emulator) == ([], [], [])


async def test_nothing_is_deleted_where_nobody_can_be_asked(shell: Shell) -> None:
    assert await shell("apply", *LEAST, "--no-wait") == 0
    with pytest.raises(ConfigurationError, match="say --yes"):
        await shell("destroy", *NAMED)
    assert held(shell.emulator) == ([], [], ["demo"])


async def test_a_pool_without_a_free_gpu_is_told_apart_from_a_slow_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = WorkerCommand(("sleep", "60"), log_directory=tmp_path)
    async with Emulator(FIRST, command, rest_quotas={}) as emulator:
        emulator.account.stock.limit("ADA_24", 0)
        shell = Shell(emulator, tmp_path, capsys)
        assert await shell("apply", *LEAST, "--workers-min", "1", "--wait", "4") == NOT_READY
        assert "RunPod has no free GPU for the worker" in shell.progress
        assert "name more GPU pools (gpu_pools)" in shell.progress
        emulator.account.stock.limit("ADA_24", 1)
        assert await shell("apply", *LEAST, "--workers-min", "1", "--wait", "4") == NOT_READY
        assert "a worker starts" in shell.progress
        assert "$ unknown an hour" in shell.progress, "a worker that starts may be billed"
