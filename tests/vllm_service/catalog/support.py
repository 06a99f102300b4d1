"""Configuration files in a folder of the test, read as the service reads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vllm_service.catalog.load import Loaded, read
from vllm_service.settings import ServiceSettings

KEYS = {"OWN_KEY": "own-secret", "RUNPOD_API_KEY": "runpod-secret"}
PROVIDERS = """\
providers:
  own:
    endpoint_id: abc
    api_key_env: RUNPOD_API_KEY
    usd_per_second: 0.00031
    as_of: 2026-11-21
  groq: {preset: groq}
  mine:
    base_url: http://127.0.0.1:9/v1/
    api_key_env: OWN_KEY
    prices:
      small: {input: 0.1, cached_input: 0.025, output: 0.2, as_of: 2026-11-21}
"""
MODELS = """\
models:
  llama:
    offers:
      - {provider: own, model: meta/llama}
      - {provider: groq, model: llama-3.1-8b-instant}
      - {provider: mine, model: small, weight: 2}
    aliases: [gpt-3.5-turbo]
"""


@dataclass(frozen=True)
class Configured:
    """A folder with both files."""

    folder: Path

    def write(self, providers: str = PROVIDERS, models: str = MODELS) -> None:
        (self.folder / "providers.yaml").write_text(providers, encoding="utf-8")
        (self.folder / "models.yaml").write_text(models, encoding="utf-8")

    def environment(self, **variables: str) -> dict[str, str]:
        return {**KEYS, "CONFIG_DIR": str(self.folder), **variables}

    def settings(self, **variables: str) -> ServiceSettings:
        return ServiceSettings.from_environment(self.environment(**variables))

    def read(self, providers: str = PROVIDERS, models: str = MODELS) -> Loaded:
        self.write(providers, models)
        return read(self.settings())
