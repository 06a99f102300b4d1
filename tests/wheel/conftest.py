"""One wheel and two environments for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.wheel.installed import ROOT, Installed, build, install


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def client_alone(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The extra `client`, in the locked versions."""
    return install(tmp_path_factory.mktemp("client") / "venv", wheel, ROOT / "requirements" / "client.lock")


@pytest.fixture(scope="session")
def no_extra(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel and nothing else."""
    return install(tmp_path_factory.mktemp("bare") / "venv", wheel, None)
