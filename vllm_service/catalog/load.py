"""providers.yaml and models.yaml become a Catalog, or an error that names file, line, path and what to do."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from vllm_service.catalog.model import Catalog
from vllm_service.catalog.models_yaml import ModelReader
from vllm_service.catalog.prices import PackagePrices
from vllm_service.catalog.providers_yaml import read_providers
from vllm_service.catalog.yaml_file import read_yaml
from vllm_service.settings import CatalogSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """A catalog, and what stays unknown in it, one sentence each."""

    catalog: Catalog
    warnings: tuple[str, ...]


def load(settings: CatalogSettings) -> Catalog:
    """The catalog of both files, as they are now; warnings are logged. Raises ConfigurationError.

    Touches nothing that was loaded before: on SIGHUP, who gets an error keeps what it has.
    """
    loaded = read(settings)
    for warning in loaded.warnings:
        logger.warning("%s", warning)
    return loaded.catalog


def read(settings: CatalogSettings, prices: PackagePrices | None = None) -> Loaded:
    """The catalog and its warnings. Raises ConfigurationError."""
    entries = read_providers(read_yaml(settings.providers_path), settings.environment)
    reader = ModelReader(entries, prices or PackagePrices(), settings.baseline_model)
    models = reader.read(read_yaml(settings.models_path))
    providers = {name: entry.provider for name, entry in entries.items() if entry is not None}
    return Loaded(Catalog(providers, models), tuple(reader.warnings))
