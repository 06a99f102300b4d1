"""Hosted providers that need no base URL in providers.yaml, as of 2026-11-21. A base_url in the file overrides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vllm_service.catalog.model import PromptCache

RUNPOD_API_URL = "https://api.runpod.ai"
#: REST v2: endpoints, templates, volumes and bills.
RUNPOD_MANAGEMENT_URL = "https://api.runpod.io"


@dataclass(frozen=True, slots=True)
class Preset:
    """A hosted provider's defaults."""

    #: Up to and including `/v1`.
    base_url: str
    #: The provider's name in the price package; None if it is not listed there.
    price_source: str | None
    prompt_cache: PromptCache = PromptCache.SHARED


PRESETS: Mapping[str, Preset] = {
    "openai": Preset("https://api.openai.com/v1", "openai", PromptCache.OPENAI),
    "cerebras": Preset("https://api.cerebras.ai/v1", "cerebras"),
    "groq": Preset("https://api.groq.com/openai/v1", "groq"),
    "together": Preset("https://api.together.xyz/v1", "together"),
    "deepinfra": Preset("https://api.deepinfra.com/v1/openai", None),
}
