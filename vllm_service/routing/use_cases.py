"""Task routing: which public model answers `code`, `chat` or `analysis`. The table is configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from vllm_service.errors import ModelNotFound
from vllm_service.providers.configured import Catalog

PREFIX = "task:"


@dataclass(frozen=True)
class UseCases:
    """models: task -> public models, in the order of preference."""

    models: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))

    def model_for(self, task: str, catalog: Catalog) -> str:
        """The first model of the task that is configured. Raises ModelNotFound for an unknown task or none of them."""
        for name in self.models.get(task, ()):
            if name in catalog.models:
                return name
        raise ModelNotFound(f"{PREFIX}{task}", [f"{PREFIX}{known}" for known in self.models])
