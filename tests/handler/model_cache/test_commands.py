"""`python -m handler download | verify | prune` as a person runs them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from handler.errors import ConfigurationError, ModelRefused, ModelUnavailable
from handler.model_cache import commands
from handler.model_cache.layout import RepositoryDirectory
from handler.model_cache.lease import Watcher, beating
from tests.handler.model_cache import support
from tests.handler.model_cache.hub_server import Fault, HubServer
from tests.handler.model_cache.support import NAME, PACE, cache, contents

FILES = support.model_files(size_bytes=50_000)
SHARD = "model-00001-of-00002.safetensors"


@pytest.fixture
def hub() -> HubServer:
    server = HubServer()
    server.add(NAME, FILES)
    return server


def run(root: Path, url: str, *arguments: str, name: str | None = None) -> int:
    return commands.run(arguments, cache(root, url), name, None)


def test_download_then_verify_then_a_flipped_bit(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with hub.running():
        assert run(tmp_path, hub.url, "download", name=NAME) == 0
    path = Path(capsys.readouterr().out.split(": ")[1].strip())
    assert contents(path) == support.needed(FILES)
    assert run(tmp_path, "", "verify") == 0
    assert "files are good" in capsys.readouterr().out
    weights = path / SHARD
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    assert run(tmp_path, "", "verify", "ORG/demo") == commands.EXIT_BROKEN
    assert f"{SHARD} is broken" in capsys.readouterr().out


def test_a_model_can_be_baked_into_a_directory(hub: HubServer, tmp_path: Path) -> None:
    with hub.running():
        run(tmp_path / "unused", hub.url, "download", NAME, "--directory", str(tmp_path / "models"), "--with-code")
    assert not (tmp_path / "unused").exists()
    assert RepositoryDirectory.of(tmp_path / "models", NAME).snapshots.is_dir()
    assert list((tmp_path / "models").rglob("modeling_demo.py"))


def test_nothing_named_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="MODEL_NAME is not set"):
        run(tmp_path, "", "download")
    with pytest.raises(ModelRefused, match="org/other is not in"):
        run(tmp_path, "", "verify", "org/other")
    with pytest.raises(ModelRefused, match="is not in"):
        run(tmp_path, "", "prune", "org/other", "--yes")


def test_prune_removes_what_a_failed_attempt_left_and_no_model(hub: HubServer, tmp_path: Path) -> None:
    hub.faults.append(Fault(SHARD, times=99, status=500))
    with hub.running():
        with pytest.raises(ModelUnavailable):
            run(tmp_path, hub.url, "download", NAME)
        hub.add("org/other", FILES)
        hub.faults.clear()
        run(tmp_path, hub.url, "download", "org/other")
    assert support.left_behind(tmp_path)
    assert run(tmp_path, "", "prune", "--yes") == 0
    assert not support.left_behind(tmp_path)
    assert run(tmp_path, "", "verify", "org/other") == 0


def test_prune_removes_a_model_by_name(hub: HubServer, tmp_path: Path) -> None:
    with hub.running():
        run(tmp_path, hub.url, "download", NAME)
    run(tmp_path, "", "prune", NAME, "--yes")
    assert not list(tmp_path.rglob("*.safetensors"))


def test_prune_leaves_a_download_alone_whose_heart_beats(hub: HubServer, tmp_path: Path) -> None:
    with hub.running():
        run(tmp_path, hub.url, "download", NAME)
    held = Watcher(RepositoryDirectory.of(tmp_path, NAME).leases("main"), PACE).try_take()
    assert held
    with beating(held, PACE, dict):
        commands.run(("prune", NAME, "--yes"), replace(cache(tmp_path, "")), None, None)
    assert list(tmp_path.rglob("*.safetensors"))
