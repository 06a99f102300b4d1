"""service.Dockerfile keeps its rules; what it sets is understood, and its lock holds what the service imports."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from scripts.image.install_on_base import pins
from scripts.image.service_healthcheck import HEALTHY, UNHEALTHY, check
from tests.dockerfiles import Dockerfile
from tests.e2e.gateway import configure, gateway
from vllm_service.settings import ServiceSettings

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = Dockerfile("service.Dockerfile")
CODE, instructions = DOCKERFILE.code, DOCKERFILE.instructions


def lock(name: str) -> dict[str, str]:
    return pins((ROOT / "requirements" / name).read_text(encoding="utf-8"))


def test_it_runs_as_nobody_special_and_stops_as_the_gateway_wants() -> None:
    assert instructions("ARG")[0].partition("@")[0] == "BASE_IMAGE=python:3.11-slim"
    assert instructions("FROM") == ["${BASE_IMAGE}"]
    assert instructions("USER") == ["10001"]
    assert "useradd --uid 10001" in CODE
    assert instructions("STOPSIGNAL") == ["SIGTERM"]
    assert instructions("CMD") == ['["python", "-u", "-m", "vllm_service", "serve"]']
    assert re.search(r' CMD \["python", "/app/service_healthcheck.py"\]', instructions("HEALTHCHECK")[0])


def test_no_argument_and_no_variable_of_the_image_is_a_secret() -> None:
    assert DOCKERFILE.secrets() == []
    assert re.findall(r"https?://[^ ]+", CODE) == []
    assert DOCKERFILE.without_hashes() == []


def test_what_it_sets_is_a_configuration_that_starts() -> None:
    settings = ServiceSettings.from_environment(DOCKERFILE.variables())
    assert settings.require_keys
    assert str(settings.port) in instructions("EXPOSE")


def test_every_copied_path_exists_and_passes_dockerignore() -> None:
    assert {"vllm_service", "requirements/service.lock"} <= set(DOCKERFILE.taken())


def test_the_lock_holds_what_the_service_asks_for_in_the_tested_versions() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = pins("".join(f"{re.split('[<>=]', line)[0]}==0\n" for line in extras["service"] + extras["tracing"]))
    wanted.pop("vllm-service[client]", None)
    wanted.pop("vllm-service", None)
    locked, tested = lock("service.lock"), lock("dev.lock")
    assert wanted.keys() <= locked.keys()
    assert {name: version for name, version in locked.items() if tested.get(name) != version} == {}
    assert not {"torch", "vllm", "runpod", "sentry-sdk", "transformers"} & locked.keys()


async def test_the_health_check_tells_a_gateway_from_none(tmp_path: Path) -> None:
    configure(
        tmp_path, {"p": {"base_url": "http://127.0.0.1:9/v1"}}, {"m": {"offers": [{"provider": "p", "model": "m"}]}}
    )
    async with gateway(tmp_path) as running:
        port = running.url.removesuffix("/v1").rpartition(":")[2]
        assert check({"SERVICE_PORT": port}) == HEALTHY
        await running.stop()
    assert check({"SERVICE_PORT": port}) == UNHEALTHY
