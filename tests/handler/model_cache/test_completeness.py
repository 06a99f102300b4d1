"""A directory of model files that cannot work is refused with what is wrong, before the engine starts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from handler.model_cache.completeness import fault_of
from handler.settings import DEMO_MODEL_DIR
from handler.volume.path import VolumePath

WEIGHTS = "model.safetensors"


def cut(model: Path) -> None:
    with (model / WEIGHTS).open("r+b") as file:
        file.truncate((model / WEIGHTS).stat().st_size // 2)


def without_a_shard(model: Path) -> None:
    (model / WEIGHTS).rename(model / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


def without_any_shard(model: Path) -> None:
    without_a_shard(model)
    (model / "model-00001-of-00002.safetensors").unlink()


def with_a_link_to_nothing(model: Path) -> None:
    (model / WEIGHTS).unlink()
    (model / WEIGHTS).symlink_to(model / "gone")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    shutil.copytree(DEMO_MODEL_DIR, tmp_path / "model")
    return tmp_path / "model"


BREAKAGES: list[tuple[Callable[[Path], object], str]] = [
    (cut, "model.safetensors is truncated or no safetensors file"),
    (lambda model: (model / WEIGHTS).write_bytes(b""), "model.safetensors is truncated"),
    (lambda model: (model / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1"), "truncated or no"),
    (lambda model: (model / WEIGHTS).unlink(), "it has no weights (*.safetensors or *.bin)"),
    (with_a_link_to_nothing, "it has no weights"),
    (without_a_shard, "1 of 2 shards are missing: model-00002-of-00002.safetensors"),
    (without_any_shard, "it has no weights"),
    (lambda model: (model / "model.safetensors.index.json").write_text("{"), "cannot be read as an index"),
    (lambda model: (model / "config.json").unlink(), "it has no config.json or params.json"),
    (lambda model: (model / "config.json").write_text("{ no"), "config.json cannot be read"),
    (lambda model: (model / "config.json").write_text("[" * 100_000), "config.json cannot be read"),
    (lambda model: (model / "config.json").write_text("[]"), "config.json holds no JSON object"),
    (lambda model: (model / "config.json").write_bytes(b"\xff\xfe"), "config.json cannot be read"),
    (shutil.rmtree, "the directory cannot be read: No such file or directory"),
]


@pytest.mark.parametrize(("breaks", "words"), BREAKAGES, ids=[words for _, words in BREAKAGES])
def test_what_is_missing_or_torn_is_named(breaks: Callable[[Path], object], words: str, model: Path) -> None:
    assert fault_of(VolumePath.anywhere(model)) is None
    breaks(model)
    assert words in (fault_of(VolumePath.anywhere(model)) or "")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.gguf"])
def test_weights_of_other_formats_are_left_to_vllm(name: str, model: Path) -> None:
    (model / WEIGHTS).rename(model / name)
    assert fault_of(VolumePath.anywhere(model)) is None


def test_an_adapter_is_whole_with_its_own_configuration_and_weights() -> None:
    assert fault_of(VolumePath.anywhere(DEMO_MODEL_DIR / "adapters" / "pirate")) is None
