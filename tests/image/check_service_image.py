"""`make test-image`: service.Dockerfile, built and run for real: as nobody, on a read-only file system."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest

from runpod_emulator import HostedModel, HostedProviders, HostedSettings
from tests.e2e.gateway import configure
from tests.image import base_image
from tests.image.podman import Podman
from tests.image.supply import assert_bill_is_complete, build_release

KEY, USER_ID = "provider-key", 10001
START_SECONDS = 60
CREATE = ("keys", "create", "acme")
QUESTION = "What is the capital of France?"


@dataclass(frozen=True)
class Deployment:
    """The image with a configuration of one hosted provider, which runs here."""

    podman: Podman
    image: str
    directory: Path

    def options(self, *more: str) -> tuple[str, ...]:
        """`podman run` with nothing writable but /data. The host's network, since the provider is on its loopback."""
        return (
            *("run", "--read-only", "--read-only-tmpfs=false", "--network", "host", *more),
            *("--volume", f"{self.directory / 'config'}:/config:ro", "--volume", f"{self.directory / 'data'}:/data"),
            *("--env", f"HOSTED_KEY={KEY}", "--env", "SERVICE_HOST=127.0.0.1", "--env", "SERVICE_PORT=0", self.image),
        )

    async def command(self, *arguments: str) -> str:
        """What a command of the service in a container of its own wrote to stdout."""
        run = (*self.options("--rm"), "python", "-m", "vllm_service", *arguments)
        return (await asyncio.to_thread(self.podman.run, *run)).stdout.strip()


@pytest.fixture
async def deployment(podman: Podman, service_image: str, tmp_path: Path) -> AsyncIterator[Deployment]:
    provider = HostedSettings(name="hosted", api_key=KEY, models=(HostedModel(id="there"),))
    async with HostedProviders([provider]) as hosted:
        entry = {"base_url": hosted.base_url("hosted"), "api_key_env": "HOSTED_KEY"}
        offers = {"offers": [{"provider": "hosted", "model": "there"}]}
        configure(tmp_path / "config", {"hosted": entry}, {"small": offers})
        data = tmp_path / "data"
        data.mkdir()
        subprocess.run(["chown", str(USER_ID), str(data)], check=True)
        tmp_path.chmod(0o755)
        yield Deployment(podman, service_image, tmp_path)


def test_metadata_says_how_to_run_and_stop_it(podman: Podman, service_image: str) -> None:
    config = json.loads(podman.inspect(service_image, "{{json .Config}}"))
    assert config.get("Entrypoint") in (None, [])
    assert config["Cmd"] == ["python", "-u", "-m", "vllm_service", "serve"]
    assert config["User"] == str(USER_ID)
    assert config["StopSignal"] in ("SIGTERM", "15")
    assert config["Labels"]["org.opencontainers.image.base.name"] == base_image.PYTHON_BASE
    assert (
        podman.inspect(service_image, "{{json .HealthCheck.Test}}") == '["CMD","python","/app/service_healthcheck.py"]'
    )


def test_where_packages_came_from_and_their_cache_are_in_no_layer(podman: Podman, service_image: str) -> None:
    found = 'cat /etc/pip.conf 2>/dev/null; find /build /root/.cache -type f 2>/dev/null; echo "searched by $(id -u)"'
    searched = podman.run("run", "--rm", "--user", "0", service_image, "sh", "-c", found)
    assert searched.stdout.strip() == "searched by 0"


def test_the_bill_of_materials_lists_what_is_installed_and_no_tool(podman: Podman, service_image: str) -> None:
    assert_bill_is_complete(podman, service_image)


def test_a_release_is_not_built_on_a_tag_alone(podman: Podman, service_image: str) -> None:
    with pytest.raises(AssertionError, match=r"service-test-base has no digest"):
        build_release(podman, "service.Dockerfile", base_image.PYTHON_BASE)


def test_a_user_without_a_name_makes_keys_without_a_volume(podman: Podman, service_image: str) -> None:
    made = podman.run("run", "--rm", "--user", "12345", service_image, "python", "-m", "vllm_service", *CREATE)
    assert made.stdout.startswith("vs_")


def test_a_volume_that_cannot_be_written_to_is_one_line(podman: Podman, service_image: str, tmp_path: Path) -> None:
    mounted = ("--volume", f"{tmp_path}:/data")
    refused = podman.run("run", "--rm", *mounted, service_image, "python", "-m", "vllm_service", *CREATE, check=False)
    assert refused.returncode == 1
    said = [line for line in refused.stderr.splitlines() if not line.startswith("time=")]  # podman's own have one
    assert len(said) == 1
    assert "Permission denied. Set DATA_DIR to a directory that can be written" in said[0]


async def test_check_finds_the_provider(deployment: Deployment) -> None:
    found = json.loads(await deployment.command("check", "--json"))
    assert found["models"] == ["small"]
    assert [(one["provider"], one["reachable"]) for one in found["providers"]] == [("hosted", True)]


async def test_it_serves_as_nobody_on_a_read_only_file_system_and_sigterm_ends_it_with_0(
    deployment: Deployment, container: str
) -> None:
    podman, key = deployment.podman, await deployment.command(*CREATE)
    process = podman.start_heard(*deployment.options("--name", container))
    assert process.stdout is not None
    with process.stdout:
        async with asyncio.timeout(START_SECONDS):
            url = (await asyncio.to_thread(process.stdout.readline)).strip()
        assert url, "the gateway ended early"
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            health = (await client.get("/health")).raise_for_status().json()
            refused = await client.post("/chat/completions", json={"model": "small", "messages": []})
        async with openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0) as client_of_acme:
            answer = await client_of_acme.chat.completions.create(
                model="small", messages=[{"role": "user", "content": QUESTION}]
            )
        touched = podman.run("exec", container, "touch", "/app/x", check=False)
        port = f"SERVICE_PORT={httpx.URL(url).port}"
        health_check = ("exec", "--env", port, container, "python", "/app/service_healthcheck.py")
        healthy = podman.run(*health_check, check=False).returncode
        user = podman.run("exec", container, "id", "-u").stdout.strip()
        await asyncio.to_thread(podman.run, "stop", "--time", str(START_SECONDS), container)
        code = await asyncio.to_thread(process.wait)
    assert code == 0
    assert health["status"] == "healthy"
    assert refused.status_code == 401
    assert answer.choices[0].message.content
    assert "Read-only file system" in touched.stderr
    assert (user, healthy) == (str(USER_ID), 0)
