"""The parts of the cache by themselves: which files, which manifest, which directories, whose staging directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from handler.model_cache import manifest
from handler.model_cache.completeness import is_whole_without_manifest
from handler.model_cache.layout import RepositoryDirectory
from handler.model_cache.locate import ModelDirectory, ModelRequest, locate
from handler.model_cache.manifest import MANIFEST_NAME, Manifest, ModelFile
from handler.model_cache.progress import LogNowAndThen, Meter
from handler.model_cache.selection import select
from handler.model_cache.staging import Staging
from handler.volume.path import VolumePath
from tests.handler.model_cache.support import NAME, safetensors

COMMIT = "a" * 40


@pytest.mark.parametrize(
    ("paths", "chosen"),
    [
        (["model.safetensors", "pytorch_model.bin", "config.json"], ["config.json", "model.safetensors"]),
        (["pytorch_model.bin", "training_args.bin", "optimizer.pt"], ["pytorch_model.bin"]),
        (["a-1.bin", "pytorch_model.bin.index.json", "model.safetensors"], ["model.safetensors"]),
        (["a.safetensors", "a.safetensors.index.json"], ["a.safetensors", "a.safetensors.index.json"]),
        (["adapter_model.safetensors", "adapter_config.json"], ["adapter_config.json", "adapter_model.safetensors"]),
        (["model.safetensors", "2_Dense/model.safetensors"], ["2_Dense/model.safetensors", "model.safetensors"]),
        (["model.safetensors", "onnx/model.bin", "checkpoint/x.safetensors"], ["model.safetensors"]),
        (["model.safetensors", "README.md", "a.gguf", "a.py"], ["model.safetensors"]),
    ],
)
def test_weights_come_in_one_format_with_the_small_files_around_them(paths: list[str], chosen: list[str]) -> None:
    assert list(select(paths).paths) == chosen


def test_of_mistrals_two_sets_the_one_that_vllm_would_load_is_taken() -> None:
    paths = ["consolidated.safetensors", "model-1.safetensors", "config.json", "params.json", "tekken.json"]
    mistral, usual = select(paths), select(paths, mistral_format=False)
    assert mistral.paths == ("config.json", "consolidated.safetensors", "params.json", "tekken.json")
    assert usual.paths == ("config.json", "model-1.safetensors", "tekken.json")
    assert (mistral.mistral_format, usual.mistral_format) == (True, False)
    assert select(paths[:1], mistral_format=False).paths == ("consolidated.safetensors",)


def written(directory: Path) -> Manifest:
    directory.mkdir(parents=True)
    (directory / "a").write_bytes(b"abc")
    record = Manifest(NAME, "main", COMMIT, (ModelFile("a", 3, "0" * 64),))
    record.write(VolumePath(directory))
    return record


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = written(tmp_path / "m")
    assert manifest.read(VolumePath(tmp_path / "m")) == record


@pytest.mark.parametrize(
    "harm",
    [
        lambda text: text[:-10],
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace('"version": 1', '"version": 2'),
        lambda text: text.replace('"size_bytes": 3', '"size_bytes": 4'),
        lambda text: text.replace('"path": "a"', '"path": "../m/a"'),
        lambda text: text.replace('"commit"', '"comit"'),
    ],
)
def test_anything_but_a_whole_model_reads_as_none(tmp_path: Path, harm: object) -> None:
    written(tmp_path / "m")
    path = tmp_path / "m" / MANIFEST_NAME
    path.write_text(harm(path.read_text()))  # type: ignore[operator]
    assert manifest.read(VolumePath(tmp_path / "m")) is None


def hub_cache(root: Path, name: str = "models--org--demo", commit: str = COMMIT, *, ref: bool = True) -> Path:
    """As the hub's own client and RunPod leave it: links to blobs, and no manifest."""
    snapshot = root / name / "snapshots" / commit
    snapshot.mkdir(parents=True)
    blobs = root / name / "blobs"
    blobs.mkdir(exist_ok=True)
    for file, content in {"config.json": b"{}", "model.safetensors": safetensors(1000, 1)}.items():
        (blobs / file).write_bytes(content)
        (snapshot / file).symlink_to(f"../../blobs/{file}")
    if ref:
        (root / name / "refs").mkdir(exist_ok=True)
        (root / name / "refs" / "main").write_text(commit)
    return snapshot


@pytest.mark.parametrize("name", ["models--org--demo", "models--Org--DEMO"])
@pytest.mark.parametrize("ref", [True, False])
def test_a_model_in_runpods_cache_is_found_in_any_case_with_or_without_its_ref(
    tmp_path: Path, name: str, ref: bool
) -> None:
    snapshot = hub_cache(tmp_path, name, ref=ref)
    directories = (ModelDirectory("host", tmp_path),)
    for asked in (ModelRequest("org/demo"), ModelRequest("Org/Demo"), ModelRequest("org/demo", COMMIT)):
        found = locate(asked, directories)
        assert found is not None
        assert found.path.samefile(snapshot)
    assert locate(ModelRequest("org/demo", "b" * 40), directories) is None
    assert locate(ModelRequest("org/demo2"), directories) is None


def test_the_first_place_that_is_whole_wins(tmp_path: Path) -> None:
    hub_cache(tmp_path / "host")
    written(tmp_path / "volume/models--org--demo/snapshots" / COMMIT)
    image, host = ModelDirectory("image", tmp_path / "image"), ModelDirectory("host", tmp_path / "host")
    volume = ModelDirectory("volume", tmp_path / "volume", own=True)
    request = ModelRequest(NAME)
    assert [found and found.source for found in [locate(request, (image, host, volume))]] == ["host"]
    assert [found and found.source for found in [locate(request, (image, volume, host))]] == ["volume"]
    (tmp_path / "image/org/demo").mkdir(parents=True)
    (tmp_path / "image/org/demo/config.json").write_text("{}")
    (tmp_path / "image/org/demo/model.safetensors").write_bytes(safetensors(10, 1))
    assert [found and found.source for found in [locate(request, (image, host, volume))]] == ["image"]


def test_without_a_manifest_a_model_counts_as_whole_only_when_nothing_is_missing_or_torn(tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path)
    blobs = tmp_path / "models--org--demo/blobs"
    assert is_whole_without_manifest(VolumePath.anywhere(snapshot))
    unfinished = blobs / "x.incomplete"
    unfinished.touch()
    assert not is_whole_without_manifest(VolumePath.anywhere(snapshot))
    unfinished.unlink()
    index = snapshot / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "model.safetensors", "v": "model-2.safetensors"}}))
    assert not is_whole_without_manifest(VolumePath.anywhere(snapshot))
    index.unlink()
    (blobs / "model.safetensors").write_bytes(safetensors(1000, 1)[:-1])
    assert not is_whole_without_manifest(VolumePath.anywhere(snapshot))
    (blobs / "model.safetensors").unlink()
    assert not is_whole_without_manifest(VolumePath.anywhere(snapshot))
    assert not is_whole_without_manifest(VolumePath.anywhere(tmp_path / "none"))


def test_in_our_own_cache_nothing_counts_without_a_manifest(tmp_path: Path) -> None:
    hub_cache(tmp_path)
    assert locate(ModelRequest(NAME), (ModelDirectory("volume", tmp_path, own=True),)) is None


def staged(repository: RepositoryDirectory, attempt: str) -> tuple[Staging, Manifest]:
    staging = Staging.open(repository, "main", COMMIT, attempt)
    staging.partial("a").path.write_bytes(b"abc")
    staging.keep("a")
    return staging, Manifest(NAME, "main", COMMIT, (ModelFile("a", 3, "0" * 64),))


def test_a_successor_takes_verified_files_over_and_only_reads_unfinished_ones(tmp_path: Path) -> None:
    repository = RepositoryDirectory.of(tmp_path, NAME)
    old, record = staged(repository, "old")
    sleeping_writer = old.partial("b").path.open("wb", buffering=0)
    sleeping_writer.write(b"one")
    new = Staging.open(repository, "main", COMMIT, "new")
    sleeping_writer.write(b"late")
    sleeping_writer.close()
    assert new.done("a", 3)
    assert not new.partial("b").path.exists()
    assert new.left_over("b").path.read_bytes() == b"onelate"
    with pytest.raises(FileNotFoundError):
        old.publish(repository, record)


def test_two_who_publish_the_same_model_leave_one(tmp_path: Path) -> None:
    repository = RepositoryDirectory.of(tmp_path, NAME)
    first, record = staged(repository, "first")
    aside = VolumePath(tmp_path) / "aside"
    first.path.rename(aside)
    second, _ = staged(repository, "second")
    published = second.publish(repository, record)
    assert Staging(aside).publish(repository, record) == published
    assert manifest.read(published) == record
    assert not aside.path.exists()


def test_a_log_line_comes_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    report, meter = LogNowAndThen(5, lambda: now[0]), Meter("m", 100, lambda: now[0])
    with caplog.at_level("INFO", logger="handler.model_cache.progress"):
        for second in range(11):
            now[0] = float(second)
            report(meter.progress())
    assert len(caplog.records) == 3


def test_the_time_left_follows_from_what_this_attempt_received() -> None:
    now = [0.0]
    meter = Meter("m", 100, lambda: now[0])
    meter.found(50)
    assert meter.progress().seconds_left is None
    now[0] = 2.0
    meter.received(10)
    assert meter.progress().bytes_per_second == 5.0
    assert meter.progress().seconds_left == 8.0
