"""`make test-image`: worker.Dockerfile, built for real and run, with vLLM for CPUs below it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import pytest

from runpod_emulator import Emulator, EndpointSettings
from runpod_emulator.endpoint.registry import READY
from tests.image import base_image, hub
from tests.image.conftest import TOKEN
from tests.image.podman import Podman
from tests.image.supply import assert_bill_is_complete, build_release, packages

START_SECONDS = 240
JOB = {"input": {"messages": [{"role": "user", "content": "What is the capital of France?"}]}}
QUIET = ("--env", "HF_HUB_OFFLINE=1", "--network", "host")


def test_the_base_keeps_every_package_and_gains_the_lock(podman: Podman, cpu_base: str, worker_image: str) -> None:
    base, image = packages(podman, cpu_base), packages(podman, worker_image)
    assert {name: image.get(name) for name in base} == base
    assert image["six"] == base_image.OLDER_IN_BASE[1]
    assert image["runpod"]


def test_metadata_says_how_to_run_and_stop_it(podman: Podman, worker_image: str) -> None:
    config = json.loads(podman.inspect(worker_image, "{{json .Config}}"))
    assert config.get("Entrypoint") in (None, [])
    assert config["Cmd"] == ["python", "-u", "handler.py"]
    assert config["StopSignal"] in ("SIGTERM", "15")
    assert config["Labels"]["org.opencontainers.image.base.name"] == base_image.CPU_BASE
    assert podman.inspect(worker_image, "{{json .HealthCheck.Test}}") == '["CMD","python","/app/healthcheck.py"]'


@pytest.mark.parametrize(("image", "user"), [("worker_image", "0"), ("unprivileged_image", "10001")])
def test_input_is_answered_by_the_intended_user(
    podman: Podman, image: str, user: str, request: pytest.FixtureRequest
) -> None:
    name: str = request.getfixturevalue(image)
    assert podman.run("run", "--rm", name, "id", "-u").stdout.strip() == user
    finished = podman.run("run", "--rm", *QUIET, name, "python", "handler.py", "--test_input")
    answer = json.loads(finished.stdout)["output"]["choices"][0]["message"]["content"]
    assert answer


def test_the_bill_of_materials_lists_what_is_installed_and_no_tool(podman: Podman, worker_image: str) -> None:
    assert_bill_is_complete(podman, worker_image)


def test_a_release_is_not_built_on_a_tag_alone(podman: Podman, cpu_base: str) -> None:
    with pytest.raises(AssertionError, match=r"worker-test-cpu-base has no digest"):
        build_release(podman, "worker.Dockerfile", cpu_base)


def test_a_root_worker_becomes_the_image_s_user(podman: Podman, worker_image: str) -> None:
    assert "running as worker (uid 10001)" in _test_job(podman, worker_image)


def test_on_a_volume_of_root_it_stays_root_and_says_why(podman: Podman, worker_image: str, tmp_path: Path) -> None:
    logged = _test_job(podman, worker_image, "--volume", f"{tmp_path}:/runpod-volume")
    assert "running as root: the user worker cannot write to /runpod-volume" in logged


@pytest.mark.parametrize(
    "options", [("--user", "12345"), ("--read-only", "--tmpfs", "/tmp")], ids=["no name", "read-only"]
)
def test_a_job_is_answered(options: tuple[str, ...], podman: Podman, worker_image: str) -> None:
    _test_job(podman, worker_image, *options)


def test_caches_are_writable_by_an_unprivileged_user_without_a_volume(podman: Podman, unprivileged_image: str) -> None:
    command = 'mkdir -p "$HF_HOME" "$XDG_CACHE_HOME" && touch "$BAKED_MODELS_DIR/x" && echo "$HF_HOME"'
    finished = podman.run("run", "--rm", unprivileged_image, "sh", "-c", command)
    assert finished.stdout.strip() == "/runpod-volume/huggingface-cache"


def test_caches_land_on_the_volume_when_there_is_one(podman: Podman, worker_image: str, tmp_path: Path) -> None:
    """Also on one that belongs to root and to nobody else, as RunPod's may."""
    tmp_path.chmod(0o755)
    podman.run(
        *("run", "--rm", "--volume", f"{tmp_path}:/runpod-volume", worker_image),
        *("sh", "-c", 'mkdir -p "$HF_HOME" "$XDG_CACHE_HOME"'),
    )
    assert {path.name for path in tmp_path.iterdir()} == {"huggingface-cache", ".cache"}


async def test_an_emulator_job_is_answered_and_sigterm_ends_it_with_0(
    podman: Podman, worker_image: str, container: str
) -> None:
    async with Emulator(EndpointSettings()) as emulator:
        code = await _serve_one_job(podman, worker_image, container, emulator, MODEL_NAME="/app/demo_model")
    assert code == 0


async def test_a_baked_model_is_served_without_a_network_and_its_token_is_nowhere(
    podman: Podman, baked_image: str, container: str, tmp_path: Path
) -> None:
    async with Emulator(EndpointSettings()) as emulator:
        assert await _serve_one_job(podman, baked_image, container, emulator, HF_HUB_OFFLINE="1") == 0
    assert podman.inspect(baked_image, "{{.Config.User}}") == "worker"
    _assert_absent(TOKEN, podman, baked_image, tmp_path)


def _test_job(podman: Podman, image: str, *options: str) -> str:
    """Answers the image's test job and returns what was logged."""
    finished = podman.run("run", "--rm", *QUIET, *options, image, "python", "handler.py", "--test_input")
    assert json.loads(finished.stdout)["output"]["choices"][0]["message"]["content"]
    return finished.stderr


async def _serve_one_job(podman: Podman, image: str, name: str, emulator: Emulator, **variables: str) -> int:
    """Starts the image's own command as a worker of the emulator, runs a job on it, stops it; its exit code."""
    given = emulator.worker_environment("container-1") | variables
    options = [option for key, value in given.items() for option in ("--env", f"{key}={value}")]
    process = podman.start("run", "--name", name, "--network", "host", *options, image)
    async with asyncio.timeout(START_SECONDS), httpx.AsyncClient(timeout=START_SECONDS, trust_env=False) as client:
        while not any(worker.state in READY for worker in emulator.workers.values()):
            assert process.poll() is None, "the worker ended early"
            await asyncio.sleep(0.1)
        answer = (await client.post(f"{emulator.url}/runsync", json=JOB)).json()
        healthy = podman.run("exec", name, "python", "/app/healthcheck.py", check=False).returncode
        emulator.retire_worker("container-1")
        await asyncio.to_thread(podman.run, "stop", "--time", "60", name)
        code = await asyncio.to_thread(process.wait)
    emulator.end_worker("container-1", code)
    assert answer["status"] == "COMPLETED", answer
    assert "Paris" in json.dumps(answer["output"])
    assert healthy == 0
    return code


def _assert_absent(text: str, podman: Podman, image: str, directory: Path) -> None:
    """Neither in the configuration and history, nor in any byte of a layer above the base's.

    That the search finds anything at all is shown by the model's name, which is in both.
    """
    assert text not in podman.run("image", "inspect", image).stdout
    assert text not in podman.run("history", "--no-trunc", "--format", "json", image).stdout
    archive = directory / "image.tar"
    podman.run("save", "--format", "docker-dir", "--uncompressed", "--output", str(archive), image)
    own_layers = _layers(podman, image)[len(_layers(podman, base_image.CPU_BASE)) :]
    content = b"".join((archive / digest.removeprefix("sha256:")).read_bytes() for digest in own_layers)
    assert text.encode() not in content
    assert hub.NAME.encode() in content
    assert hub.NAME in podman.run("history", "--no-trunc", "--format", "json", image).stdout


def _layers(podman: Podman, image: str) -> list[str]:
    layers: list[str] = json.loads(podman.inspect(image, "{{json .RootFS.Layers}}"))
    return layers
