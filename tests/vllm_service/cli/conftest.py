"""The folder for configuration files that the catalog's tests have."""

from __future__ import annotations

from tests.vllm_service.catalog.conftest import configured

__all__ = ["configured"]
