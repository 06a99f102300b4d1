"""Somebody else writes to the volume: links in the place of every directory, also in the moment between two steps."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from handler.errors import ModelRefused, ModelUnavailable
from handler.model_cache import commands
from handler.model_cache.layout import RepositoryDirectory
from handler.model_cache.locate import ModelDirectory, ModelRequest, locate
from handler.model_cache.manifest import MANIFEST_NAME
from tests.handler.model_cache import support
from tests.handler.model_cache.hub_server import HubServer
from tests.handler.model_cache.support import NAME, cache, contents
from tests.handler.model_cache.test_parts import hub_cache

FILES = support.model_files(size_bytes=50_000)
NEEDED = support.needed(FILES)
COMMIT = "b" * 40
NO_HUB = "http://127.0.0.1:9"
MODEL = "models--org--demo"
#: The directories on the way of a download and of `prune`, from the root on.
ON_THE_WAY = ["", MODEL, f"{MODEL}/.staging", f"{MODEL}/.staging/main", f"{MODEL}/.leases", f"{MODEL}/.leases/main"]
LATER = [f"{MODEL}/snapshots", f"{MODEL}/refs"]


@pytest.fixture
def hub() -> HubServer:
    server = HubServer()
    server.add(NAME, FILES)
    return server


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What belongs to somebody else: names that the cache uses itself."""
    directory = tmp_path / "outside"
    for name in (f"{COMMIT}.x/file", "main/one/file", "000001", "main/000001", "x.beat", f"{MODEL}/.staging/main/a/f"):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text("precious")
    return directory


def everything(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): path.read_text() if path.is_file() else "" for path in directory.rglob("*")
    }


def plant(root: Path, place: str, outside: Path) -> None:
    link = root / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside)


@pytest.mark.parametrize("place", ON_THE_WAY + LATER)
def test_a_cold_start_touches_nothing_behind_a_planted_link(
    hub: HubServer, tmp_path: Path, outside: Path, place: str
) -> None:
    plant(tmp_path / "volume", place, outside)
    before = everything(outside)
    with hub.running(), pytest.raises(ModelRefused, match=r"is a link.*(expected|itself)"):
        cache(tmp_path / "volume", hub.url).prepare(ModelRequest(NAME))
    assert everything(outside) == before


@pytest.mark.parametrize("place", ON_THE_WAY)
@pytest.mark.parametrize("named", [False, True])
def test_prune_removes_the_link_and_nothing_behind_it(
    tmp_path: Path, outside: Path, place: str, *, named: bool
) -> None:
    plant(tmp_path / "volume", place, outside)
    before = everything(outside)
    arguments = ("prune", *([NAME] if named else []), "--yes")
    with contextlib.suppress(ModelRefused):  # a root that is a link has no models
        commands.run(arguments, cache(tmp_path / "volume", NO_HUB), None, None)
    assert everything(outside) == before
    if place.startswith(MODEL) and (named or ".staging" in place):
        assert not (tmp_path / "volume" / place).is_symlink()


@pytest.mark.parametrize("planted", ["link", "directory-link", "fifo", "hard-link"])
def test_a_download_takes_over_nothing_that_no_attempt_can_have_left(
    hub: HubServer, tmp_path: Path, outside: Path, planted: str
) -> None:
    commit = hub.repositories[NAME].refs["main"]
    left = tmp_path / "volume" / MODEL / ".staging" / "main" / f"{commit}.{'c' * 32}"
    left.mkdir(parents=True)
    shard = "model-00001-of-00002.safetensors"
    (tmp_path / "copy").write_bytes(FILES[shard])
    plants: dict[str, Callable[[], object]] = {
        "link": lambda: (left / shard).symlink_to(tmp_path / "copy"),
        "directory-link": lambda: (left / "2_Dense").symlink_to(outside),
        "fifo": lambda: os.mkfifo(left / f"{shard}.partial"),
        "hard-link": lambda: (left / f"{shard}.partial").hardlink_to(outside / "000001"),
    }
    plants[planted]()
    before = everything(outside)
    with hub.running():
        model = cache(tmp_path / "volume", hub.url).prepare(ModelRequest(NAME))
    assert contents(Path(model.path)) == NEEDED
    assert everything(outside) == before
    assert not [path for path in Path(model.path).rglob("*") if path.is_symlink()]


@pytest.mark.parametrize("name", ["config.json", MANIFEST_NAME, "extra.jinja"])
def test_a_published_model_with_a_link_in_it_is_not_given_to_vllm(hub: HubServer, tmp_path: Path, name: str) -> None:
    root = tmp_path / "volume"
    with hub.running():
        path = Path(cache(root, hub.url).prepare(ModelRequest(NAME)).path)
    content = (path / name).read_bytes() if (path / name).exists() else b"secret"
    (path / name).unlink(missing_ok=True)
    (tmp_path / "elsewhere").write_bytes(content)
    (path / name).symlink_to(tmp_path / "elsewhere")
    assert locate(ModelRequest(NAME), (ModelDirectory("the volume", root, own=True),)) is None
    with pytest.raises(ModelUnavailable):
        cache(root, NO_HUB).prepare(ModelRequest(NAME))


def test_a_model_in_a_shared_cache_may_link_to_its_blobs_and_not_out_of_the_cache(tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path / "hub")
    directories = (ModelDirectory("host", tmp_path / "hub"),)
    assert locate(ModelRequest(NAME), directories) is not None
    (tmp_path / "secret").write_text("{}")
    (snapshot / "tokenizer.json").symlink_to(tmp_path / "secret")
    assert locate(ModelRequest(NAME), directories) is None


@contextmanager
def swapping(directory: Path, outside: Path) -> Iterator[None]:
    """Exchanges a directory for a link and back, as fast as possible, until the context is left."""
    ended, aside = threading.Event(), directory.with_name("aside")

    def swap() -> None:
        while not ended.is_set():
            with contextlib.suppress(OSError):
                directory.rename(aside)
                directory.symlink_to(outside)
            with contextlib.suppress(OSError):
                directory.unlink()
                aside.rename(directory)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("place", [f"{MODEL}/.staging", f"{MODEL}/.staging/main", MODEL])
def test_a_directory_that_is_exchanged_for_a_link_while_prune_runs_leads_nowhere(
    tmp_path: Path, outside: Path, place: str
) -> None:
    root = tmp_path / "volume"
    before = everything(outside)
    rounds = 60
    (root / place).mkdir(parents=True)
    with swapping(root / place, outside):
        for number in range(rounds):
            for name in ("one", f"{COMMIT}.x", "a"):
                with contextlib.suppress(OSError):
                    (root / MODEL / ".staging" / "main" / name / str(number)).mkdir(parents=True)
            with contextlib.suppress(ModelRefused):
                commands.run(("prune", "--yes"), cache(root, NO_HUB), None, None)
    after = everything(outside)
    assert {name: text for name, text in after.items() if text} == {name: text for name, text in before.items() if text}


@pytest.mark.parametrize("place", [f"{MODEL}/.staging", f"{MODEL}/.leases", f"{MODEL}/snapshots"])
def test_a_directory_that_is_exchanged_for_a_link_during_a_download_leads_nowhere(
    hub: HubServer, tmp_path: Path, outside: Path, place: str
) -> None:
    root = tmp_path / "volume"
    (root / place).mkdir(parents=True)
    before = everything(outside)
    with hub.running(), swapping(root / place, outside):
        for _ in range(10):
            with contextlib.suppress(ModelRefused, ModelUnavailable):
                cache(root, hub.url).prepare(ModelRequest(NAME))
    assert everything(outside) == before


def test_who_else_may_write_to_the_model_is_logged(
    hub: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with hub.running():
        path = Path(cache(tmp_path, hub.url).prepare(ModelRequest(NAME)).path)
        assert "can change the model" not in caplog.text
        path.chmod(0o777)
        cache(tmp_path, hub.url).prepare(ModelRequest(NAME))
    assert "others may write to it (mode 777), so whoever that is can change the model" in caplog.text
    assert RepositoryDirectory.of(tmp_path, NAME).path == path.parents[1]
