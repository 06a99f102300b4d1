"""LLMRouter reads of the environment only what it needs: the application around it has variables of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vllm_service.client.runpod_provider import runpod
from tests.vllm_service.client.subprocesses import run_program
from vllm_service.client.router.llm_router import configured
from vllm_service.errors import ConfigurationError
from vllm_service.testing import says

FOREIGN = {
    "DATABASE_URL": "postgresql+asyncpg://app:hunter2@db/app",
    "SERVICE_HOST": "0.0.0.0",
    "SERVICE_PORT": "tcp://10.0.0.1:8090",
    "SERVICE_WORKERS": "auto",
    "LOG_LEVEL": "warn",
    "LOG_FORMAT": "logfmt",
    "METRICS": "prometheus",
    "REDIS_URL": "sentinel://cache:26379/0",
    "TRUSTED_PROXIES": "*",
    "DATA_DIR": "s3://bucket",
    "RESPONSE_CACHE": "redis",
    "DEFAULT_STRATEGY": "RollingUpdate",
    "MAX_CONNECTIONS": "unlimited",
    "HEDGE": "maybe",
    "ATTEMPTS": "-1",
    "CONFIG_DIR": "/etc/of-the-application",
    "OPENAI_API_KEY": "sk-of-openai",
    "OPENAI_ADMIN_KEY": "sk-of-the-admin",
    "OPENAI_ORG_ID": "org-of-the-application",
    "OPENAI_PROJECT_ID": "project-of-the-application",
    "OPENAI_CUSTOM_HEADERS": "Authorization: Bearer sk-other\nX-Application: secret",
    "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
}
OWN = {"RUNPOD_VLLM_ENDPOINT_ID": "ep", "RUNPOD_API_KEY": "k", "RUNPOD_DEFAULT_MODEL": "org/m"}
PROVIDERS = "providers:\n  hosted: {base_url: 'https://hosted.example/v1', api_key_env: HOSTED_KEY}\n"
MODELS = "models:\n  m: {offers: [{provider: hosted, model: m-8b}]}\n"


def test_variables_of_the_application_do_not_matter_where_only_an_endpoint_is_named() -> None:
    catalog = configured({**FOREIGN, **OWN})
    assert list(catalog.models) == ["org/m"]
    assert catalog.providers["runpod"].base_url == "https://api.runpod.ai/v2/ep/openai/v1"


def test_variables_of_the_application_do_not_matter_where_there_are_files(tmp_path: Path) -> None:
    (tmp_path / "providers.yaml").write_text(PROVIDERS)
    (tmp_path / "models.yaml").write_text(MODELS)
    catalog = configured({**FOREIGN, "CONFIG_DIR": str(tmp_path), "HOSTED_KEY": "secret"})
    assert list(catalog.models) == ["m"]
    assert catalog.providers["hosted"].api_key == "secret"


@pytest.mark.parametrize("variable", ["CONFIG_DIR", "PROVIDERS_FILE"])
def test_a_folder_of_a_user_who_does_not_exist_is_refused_by_the_variables_name(variable: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{variable}='~nobody-here/x': expected a path"):
        configured({**OWN, variable: "~nobody-here/x"})


def test_a_path_that_cannot_be_looked_for_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="PROVIDERS_FILE"):
        configured({**OWN, "PROVIDERS_FILE": "x" * 5000})


def test_without_files_and_endpoint_the_error_says_what_to_set() -> None:
    with pytest.raises(ConfigurationError, match="RUNPOD_VLLM_ENDPOINT_ID"):
        configured(FOREIGN)


PROGRAM = """
import asyncio
from vllm_service import LLMRouter

async def main():
    async with LLMRouter() as router:
        print(await router.generate("hi"))

asyncio.run(main())
"""


async def test_a_router_in_a_real_application_answers(tmp_path: Path) -> None:
    async with runpod(says("own")) as server:
        origin = server.url.removesuffix("/v2/ep/openai/v1")
        printed = await run_program(PROGRAM, tmp_path, **FOREIGN, **OWN, RUNPOD_API_URL=origin)
    assert printed == "own\n"
    (request,) = server.requests
    assert (request.target, request.json["model"]) == ("/v2/ep/openai/v1/chat/completions", "org/m")
    assert request.headers["authorization"] == "Bearer k"
    assert [name for name in request.headers if name.startswith(("openai", "x-app"))] == []
