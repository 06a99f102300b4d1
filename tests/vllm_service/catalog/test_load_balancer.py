"""A load-balancing endpoint in providers.yaml."""

from __future__ import annotations

import pytest

from tests.vllm_service.catalog.support import PROVIDERS, Configured
from vllm_service.errors import ConfigurationError

BALANCER = PROVIDERS.replace("    endpoint_id: abc\n", "    type: load_balancer\n    endpoint_id: abc\n")


def with_line(line: str, text: str = BALANCER) -> str:
    return text.replace("    endpoint_id: abc\n", f"    endpoint_id: abc\n    {line}\n")


@pytest.mark.parametrize(
    ("line", "base_url", "control_url"),
    [
        ("", "https://abc.api.runpod.ai/v1", "https://api.runpod.ai/v2/abc"),
        ("api_url: http://127.0.0.1:8000", "http://127.0.0.1:8000/lb/abc/v1", "http://127.0.0.1:8000/v2/abc"),
        ("base_url: https://lb.example.com/v1", "https://lb.example.com/v1", "https://api.runpod.ai/v2/abc"),
    ],
)
def test_its_requests_go_to_a_host_of_its_own(
    configured: Configured, line: str, base_url: str, control_url: str
) -> None:
    provider = configured.read(with_line(line)).catalog.providers["own"]
    assert (provider.base_url, provider.control_url) == (base_url, control_url)
    assert provider.is_balanced
    assert provider.keeps_conversations
    assert provider.management is not None


def test_conversations_can_be_left_where_they_fall_and_last_as_long_as_the_idle_time_out(
    configured: Configured,
) -> None:
    provider = configured.read(with_line("keep_conversations: false")).catalog.providers["own"]
    assert (provider.is_balanced, provider.keeps_conversations, provider.idle_worker_seconds) == (True, False, 5)
    provider = configured.read(with_line("expected: {idle_timeout_seconds: 60}")).catalog.providers["own"]
    assert provider.idle_worker_seconds == 60


def test_a_queue_endpoint_stays_as_it_was(configured: Configured) -> None:
    provider = configured.read().catalog.providers["own"]
    assert (provider.is_balanced, provider.keeps_conversations) == (False, False)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (with_line("keep_conversations: true", PROVIDERS), "type: load_balancer"),
        (with_line("base_url: https://x.example/v1", PROVIDERS), "type: load_balancer"),
        (BALANCER.replace("load_balancer", "balancer"), "load_balancer"),
        (BALANCER.replace("    endpoint_id: abc\n", ""), "endpoint_id"),
        (with_line("keep_conversations: 5"), "keep_conversations"),
    ],
)
def test_a_fault_is_named(configured: Configured, text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        configured.read(text)
