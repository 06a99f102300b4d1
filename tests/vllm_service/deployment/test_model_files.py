"""A model's weights and config.json, from a directory and from the hub."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.handler.model_cache.hub_server import Fault, HubServer
from vllm_service.deployment.hub import Hub
from vllm_service.deployment.model_files import (
    MOST_CONFIG_BYTES,
    ModelFiles,
    Weights,
    chosen,
    config_of,
    numbers_by_type,
    of_directory,
    weights_of,
)
from vllm_service.deployment.unknown import Unknown
from vllm_service.errors import ConfigurationError

DEMO = Path(__file__).resolve().parents[3] / "demo_model"
CONFIG = b'{"model_type": "llama"}'


def tensors(*, dtype: str = "BF16", shape: object = (2, 3), length: int | None = None) -> bytes:
    header = json.dumps({"__metadata__": {"format": "pt"}, "w": {"dtype": dtype, "shape": shape}}).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + bytes(12)


def test_the_demo_model_is_read_from_its_directory() -> None:
    files = of_directory(DEMO)
    assert isinstance(files, ModelFiles)
    assert isinstance(files.weights, Weights)
    assert not isinstance(files.config, Unknown)
    assert files.config["model_type"] == "llama"
    size = (DEMO / "model.safetensors").stat().st_size
    # All but the file's header.
    assert 0 < size - files.weights.loaded_bytes(is_quantized=False) < 10_000


@pytest.mark.parametrize(
    ("weights", "is_quantized", "expected"),
    [
        (Weights(100), False, 100),
        (Weights(100, {"BF16": 10}), False, 20),
        (Weights(100, {"F32": 10}), False, 20),  # vLLM loads them as 16 bits
        (Weights(100, {"F32": 10, "I32": 10}), True, 80),
        (Weights(100, {"F8_E4M3": 10, "BF16": 1}), True, 12),
    ],
)
def test_bytes_in_memory_follow_from_the_types(weights: Weights, is_quantized: bool, expected: int) -> None:
    assert weights.loaded_bytes(is_quantized=is_quantized) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (["model-1.safetensors", "consolidated.safetensors"], ["model-1.safetensors"]),
        (["consolidated.safetensors"], ["consolidated.safetensors"]),
        (["original/model.safetensors", "adapter_model.safetensors"], []),
        (["pytorch_model-1.bin", "training_args.bin"], ["pytorch_model-1.bin"]),
        (["README.md"], []),
    ],
)
def test_the_files_that_vllm_loads(names: list[str], expected: list[str]) -> None:
    assert chosen(dict.fromkeys(names, 1)) == expected


def test_types_that_are_not_known_leave_the_files_sizes() -> None:
    assert weights_of({"model.safetensors": 9}, {"F7": 3}) == Weights(9)
    assert isinstance(weights_of({"model.gguf": 9}, None), Unknown)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"abc",
        struct.pack("<Q", 2**63),
        struct.pack("<Q", 3) + b"[1]",
        struct.pack("<Q", 4) + b"nope",
        tensors(length=9_999),
        tensors(dtype="BF16", shape="ab"),
        tensors(shape=None),
        struct.pack("<Q", 20_000) + b"[" * 20_000,
    ],
    ids=range(9),
)
def test_a_header_that_is_not_valid_is_no_size(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    assert numbers_by_type([tmp_path / "model.safetensors"]) is None


def test_numbers_are_counted_over_all_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(tensors())
    assert numbers_by_type([tmp_path / "a", tmp_path / "b"]) == {"BF16": 12}


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b"[" * 200_000], ids=range(4))
def test_a_config_that_is_none_is_unknown(content: bytes) -> None:
    assert isinstance(config_of(content, "config.json"), Unknown)


def test_a_directory_without_a_config_or_that_is_none(tmp_path: Path) -> None:
    files = of_directory(tmp_path)
    assert isinstance(files, ModelFiles)
    assert isinstance(files.config, Unknown)
    assert isinstance(files.weights, Unknown)
    assert isinstance(of_directory(tmp_path / "gone"), Unknown)


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer().running() as hub:
        hub.add("org/name", {"config.json": CONFIG, "model.safetensors": tensors(), "README.md": b"# Name"})
        yield hub


def test_the_hub_says_sizes_and_config(server: HubServer) -> None:
    files = Hub(server.url).files("org/name", None)
    assert isinstance(files, ModelFiles)
    assert files.config == {"model_type": "llama"}
    assert files.weights == Weights(len(tensors()))
    assert files.commit == server.repositories["org/name"].refs["main"]
    assert not any(path.endswith(".safetensors") for _, path in server.asked)


def test_what_the_worker_could_not_load_either_is_a_mistake(server: HubServer) -> None:
    with pytest.raises(ConfigurationError, match=r"^model: 127\.0\.0\.1 has no repository 'org/nam'"):
        Hub(server.url).files("org/nam", None)
    with pytest.raises(ConfigurationError, match=r"^revision: org/name has no revision 'v9'"):
        Hub(server.url).files("org/name", "v9")
    with pytest.raises(ConfigurationError, match=r"^model: .* has no repository 'a b/c'"):
        Hub(server.url).files("a b/c", None)
    server.repositories["org/name"].gated = True
    with pytest.raises(ConfigurationError, match=r"is gated at 127\.0\.0\.1, and HF_TOKEN is not set"):
        Hub(server.url).files("org/name", None)
    with pytest.raises(ConfigurationError, match=r"gated|has no access") as error:
        Hub(server.url, token="hf_wrong").files("org/name", None)
    assert "hf_wrong" not in error.value.message
    assert isinstance(Hub(server.url, token="hf_right").files("org/name", None), ModelFiles)


@pytest.mark.parametrize("status", [500, 503])
def test_a_hub_that_fails_leaves_the_model_unknown(server: HubServer, status: int) -> None:
    server.faults.append(Fault("/org/name", times=99, status=status))
    found = Hub(server.url).files("org/name", None)
    assert isinstance(found, Unknown)
    assert "127.0.0.1 does not answer" in found.reason


def test_a_hub_that_is_not_there_or_not_to_be_asked_leaves_the_model_unknown(tmp_path: Path) -> None:
    found = Hub("http://127.0.0.1:9").files("org/name", None)
    assert isinstance(found, Unknown)
    assert "does not answer" in found.reason
    offline = Hub.of({"HF_HUB_OFFLINE": "1", "HF_TOKEN": "hf_x"})
    assert "hf_x" not in repr(offline)
    found = offline.files("org/never-downloaded", None)
    assert isinstance(found, Unknown)
    assert "not asked" in found.reason


def test_a_config_without_end_is_not_read_to_its_end(server: HubServer) -> None:
    server.add("org/large", {"config.json": b" " * (MOST_CONFIG_BYTES + 1), "model.safetensors": tensors()})
    files = Hub(server.url).files("org/large", None)
    assert isinstance(files, ModelFiles)
    assert isinstance(files.config, Unknown)
    assert not any("resolve" in path for _, path in server.asked)
