"""A folder for configuration files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vllm_service.catalog.support import Configured


@pytest.fixture
def configured(tmp_path: Path) -> Configured:
    configured = Configured(tmp_path)
    configured.write()
    return configured
