"""A provider's key never goes over http to another machine, by whichever of its addresses, unless that is wanted."""

from __future__ import annotations

import pytest

from tests.vllm_service.catalog.support import Configured
from vllm_service.errors import ConfigurationError

MODELS = "models:\n  m: {offers: [{provider: p, model: m}]}\n"
HOSTED = "base_url: http://10.0.0.7:8000/v1"
KEY = "api_key_env: OWN_KEY"
RUNPOD = "endpoint_id: abc"
MANAGED = "scaling: workers_min, usd_per_second: 0.0003, as_of: 2026-11-21"


def provider(*lines: str) -> str:
    return f"providers:\n  p: {{{', '.join(lines)}}}\n"


@pytest.mark.parametrize(
    ("lines", "address"),
    [
        ([HOSTED, KEY], "base_url"),
        (["preset: openai", HOSTED, KEY], "base_url"),
        (["base_url: http://vllm:8000/v1", KEY], "base_url"),
        ([RUNPOD, KEY, "api_url: http://emulator:8000"], "api_url"),
        ([RUNPOD, KEY, MANAGED, "management_url: http://rest.runpod.test"], "management_url"),
        ([RUNPOD, KEY, "management_url: http://rest.runpod.test/v2"], "management_url"),
        ([RUNPOD, KEY, MANAGED, "api_url: https://x", "management_url: http://rest.runpod.test/v1"], "management_url"),
    ],
)
def test_a_key_over_plain_http_is_refused_unless_the_file_allows_it(
    configured: Configured, lines: list[str], address: str
) -> None:
    with pytest.raises(ConfigurationError, match=rf"providers\.p\.{address}: over http the key") as refused:
        configured.read(provider(*lines), MODELS)
    assert "allow_plain_http: true" in refused.value.message
    assert "own-secret" not in refused.value.message
    with pytest.raises(ConfigurationError, match="over http the key"):
        configured.read(provider(*lines, "allow_plain_http: false"), MODELS)
    loaded = configured.read(provider(*lines, "allow_plain_http: true"), MODELS)
    assert loaded.catalog.providers["p"].api_key == "own-secret"


@pytest.mark.parametrize(
    "lines",
    [
        [HOSTED],  # without a key
        ["base_url: https://10.0.0.7:8000/v1", KEY],
        ["base_url: http://127.0.0.1:8000/v1", KEY],
        ["base_url: http://localhost:8000/v1", KEY],
        [RUNPOD, KEY],
        [RUNPOD, KEY, "api_url: http://127.0.0.1:8000"],
        ["preset: openai", KEY],
    ],
)
def test_everything_else_needs_no_permission(configured: Configured, lines: list[str]) -> None:
    assert "p" in configured.read(provider(*lines), MODELS).catalog.providers


def test_every_address_without_tls_is_named_at_once(configured: Configured) -> None:
    with pytest.raises(ConfigurationError) as refused:
        configured.read(provider(RUNPOD, KEY, MANAGED, "api_url: http://a", "management_url: http://b"), MODELS)
    assert refused.value.message.count("over http the key") == 2
