"""The parts of providers.yaml that RunPod endpoints and hosted providers have in common."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date

from vllm_service.catalog.model import OnDisconnect, PromptCache, Provider, ProviderKind
from vllm_service.catalog.yaml_file import Section, Value
from vllm_service.domain.pricing import SecondPrice, TokenPrice
from vllm_service.domain.urls import url_fault

COMMON = (
    *("enabled", "api_key_env", "allow_plain_http", "on_disconnect", "region", "tags", "max_connections"),
    *("stream_options", "prompt_cache"),
    *("connect_timeout_seconds", "first_byte_timeout_seconds", "idle_timeout_seconds", "queue_timeout_seconds"),
)
_HEADER_TEXT = re.compile(r"[!-~]+")


@dataclass(frozen=True)
class ProviderEntry:
    """A provider with the sources of its models' prices."""

    provider: Provider
    #: The file's own, by the model's name at the provider. They are used before the price package.
    prices: Mapping[str, TokenPrice] = field(default_factory=dict)
    #: The provider's name in the price package; None: only the file's prices.
    price_source: str | None = None
    #: What the file may have and should not: one sentence each.
    warnings: tuple[str, ...] = ()


def read_provider(
    name: str,
    section: Section,
    environment: Mapping[str, str],
    *,
    kind: ProviderKind,
    base_url: str,
    control_url: str | None = None,
    second_price: SecondPrice | None = None,
    prompt_cache: PromptCache,
) -> Provider:
    """Returns the provider, without what only a RunPod endpoint has. Adds faults."""
    return Provider(
        name=name,
        kind=kind,
        base_url=base_url,
        api_key=section.read("api_key_env", lambda value: _key(value, environment), None),
        control_url=control_url,
        second_price=second_price,
        on_disconnect=OnDisconnect(section.choice("on_disconnect", [*OnDisconnect], OnDisconnect.STOP)),
        connect_timeout_seconds=section.positive("connect_timeout_seconds", 5.0),
        first_byte_timeout_seconds=section.positive("first_byte_timeout_seconds", 120.0),
        idle_timeout_seconds=section.positive("idle_timeout_seconds", 60.0),
        max_connections=section.read("max_connections", Value.count, 1024),
        queue_timeout_seconds=(
            None if section.get("queue_timeout_seconds") is None else section.positive("queue_timeout_seconds", 5.0)
        ),
        stream_options=section.read("stream_options", Value.switch, None),
        prompt_cache=PromptCache(section.choice("prompt_cache", [*PromptCache], prompt_cache)),
        region=section.text("region"),
        tags=frozenset(section.words("tags")),
    )


def _key(variable: Value, environment: Mapping[str, str]) -> str:
    if key := environment.get(variable.text(), "").strip():
        if not _HEADER_TEXT.fullmatch(key):
            raise variable.wrong(
                f"the environment variable {variable.text()} holds a character that no header can carry: a space, a "
                "line's end, or one beyond ASCII; set it to the key alone"
            )
        return key
    raise variable.wrong(
        f"the environment variable {variable.text()} is not set; set it, or write enabled: false at this provider"
    )


def read_url(value: Value) -> str:
    """Returns a URL without the slash at its end."""
    if (fault := url_fault(value.text())) is not None:
        raise value.wrong(fault)
    return value.text().rstrip("/")


def read_date(value: Value) -> None:
    """Raises ConfigurationError for a price's date that is none: its age shows when it has to be checked again."""
    try:
        date.fromisoformat(value.text())
    except ValueError:
        raise value.wrong("expected a date like 2026-11-21") from None
