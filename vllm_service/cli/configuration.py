"""Reads the whole configuration and reports all of its errors at once: the one validation of `serve` and `check`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vllm_service.catalog.load import Loaded, read
from vllm_service.errors import ConfigurationFaults
from vllm_service.observability.tracing import require_exporter
from vllm_service.routing.from_catalog import profiles_of
from vllm_service.settings import CatalogSettings, ServiceSettings


@dataclass(frozen=True)
class Configuration:
    """The environment and both files, valid together."""

    settings: ServiceSettings
    loaded: Loaded


def validated(environment: Mapping[str, str] | None = None) -> Configuration:
    """Returns the configuration. Raises ConfigurationError with the errors of the variables and of both files.

    environment: this process's by default.
    """
    faults = ConfigurationFaults()
    settings: ServiceSettings | None = None
    catalog_settings: CatalogSettings | None = None
    loaded: Loaded | None = None
    with faults:
        catalog_settings = settings = ServiceSettings.from_environment(environment)
    with faults:  # the files are read also where another variable than those of the files is wrong
        catalog_settings = catalog_settings or CatalogSettings.from_environment(environment)
    if catalog_settings is not None:
        with faults:
            loaded = read(catalog_settings)
            # Without making the router: that loads numpy, whose threads a fork would lose.
            profiles_of(loaded.catalog)
    if settings is not None and settings.otlp_endpoint is not None:
        with faults:
            require_exporter()
    faults.raise_all()
    assert settings is not None
    assert loaded is not None
    return Configuration(settings, loaded)
