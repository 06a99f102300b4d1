"""A Redis that cannot be used at the start: one sentence in the log with what to do, or no start for a wrong URL."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.servers import RedisServer, own_redis
from vllm_service.errors import ConfigurationError
from vllm_service.storage.open import open_storage
from vllm_service.storage.redis_link import RedisLink


async def logged(url: str, folder: Path, caplog: pytest.LogCaptureFixture) -> list[str]:
    async with open_storage(None, url, folder):
        return [record.message for record in caplog.records if record.levelno == logging.ERROR]


async def test_a_redis_that_is_away_is_one_sentence_and_the_gateway_starts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (message,) = await logged("redis://:hunter2@127.0.0.1:1/0", tmp_path, caplog)
    assert message.startswith("127.0.0.1:1: Redis cannot be reached (ConnectionError): start it, or correct REDIS_URL.")
    assert "hunter2" not in message


@pytest.mark.parametrize("secret", [":hunter2@", ""])
async def test_a_password_that_is_refused_or_missing_is_named(
    secret: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with own_redis() as server:
        client = server.client()
        await client.config_set("requirepass", "another")
        await client.aclose()
        (message,) = await logged(f"redis://{secret}127.0.0.1:{server.port}/0", tmp_path, caplog)
    assert "refuses the user or the password" in message
    assert "hunter2" not in message


async def test_a_redis_that_answers_is_no_message(
    tmp_path: Path, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    assert await logged(redis_server.url, tmp_path, caplog) == []


@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_certfile"])
def test_a_file_for_tls_that_is_missing_is_named(option: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as refused:
        RedisLink(f"rediss://:hunter2@127.0.0.1:1/0?{option}={tmp_path}/no.pem")
    assert refused.value.message.startswith(
        f"REDIS_URL: {option}: there is no file {tmp_path}/no.pem that can be read."
    )


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:1/0?foo=hunter2", "http://hunter2@127.0.0.1", "redis://127.0.0.1:99999"]
)
def test_a_wrong_url_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(ConfigurationError, match="REDIS_URL") as refused:
        RedisLink(url)
    assert "hunter2" not in refused.value.message
