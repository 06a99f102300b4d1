"""Loads providers.yaml and models.yaml as a Catalog, or raises an error with file, line, path and remedy."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from vllm_service.catalog.model import Catalog, PublicModel
from vllm_service.catalog.models_yaml import ModelReader
from vllm_service.catalog.prices import PackagePrices
from vllm_service.catalog.provider_entry import ProviderEntry
from vllm_service.catalog.providers_yaml import read_providers
from vllm_service.catalog.yaml_file import read_yaml
from vllm_service.errors import ConfigurationFaults
from vllm_service.settings import CatalogSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """A catalog with its warnings."""

    catalog: Catalog
    #: What stays unknown, such as a price, and what should be changed: one sentence each.
    warnings: tuple[str, ...]


def load(settings: CatalogSettings) -> Catalog:
    """Returns the catalog of both files as they are now, and logs its warnings. Raises ConfigurationError.

    It changes nothing that was loaded before: after an error on SIGHUP the gateway goes on with the catalog it has.
    """
    loaded = read(settings)
    for warning in loaded.warnings:
        logger.warning("%s", warning)
    return loaded.catalog


def read(settings: CatalogSettings, prices: PackagePrices | None = None) -> Loaded:
    """Returns the catalog and its warnings. Raises ConfigurationError with all errors of both files."""
    faults = ConfigurationFaults()
    entries: dict[str, ProviderEntry | None] | None = None
    models: dict[str, PublicModel] = {}
    warnings: list[str] = []
    with faults:
        entries = read_providers(read_yaml(settings.providers_path, faults), settings.environment)
    with faults:
        root = read_yaml(settings.models_path, faults)
        if entries is not None:  # else every offer's provider would seem to be unknown
            reader = ModelReader(entries, prices or PackagePrices(), settings.baseline_model)
            models = reader.read(root)
            warnings = reader.warnings
    faults.raise_all()
    listed = [entry for entry in (entries or {}).values() if entry is not None]
    providers = {entry.provider.name: entry.provider for entry in listed}
    warnings = [warning for entry in listed for warning in entry.warnings] + warnings
    return Loaded(Catalog(providers, models), tuple(warnings))
