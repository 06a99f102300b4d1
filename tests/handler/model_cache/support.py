"""What the tests of the model cache share: a small model, caches with little patience, and workers as processes."""

from __future__ import annotations

import hashlib
import json
import os
import random
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from handler.model_cache.download import Patience
from handler.model_cache.hub import Hub
from handler.model_cache.layout import RepositoryDirectory
from handler.model_cache.lease import Pace
from handler.model_cache.locate import ModelDirectory
from handler.model_cache.prepare import ModelCache

ROOT = Path(__file__).resolve().parents[3]
NAME = "org/demo"
PACE = Pace(heartbeat_seconds=0.05, stale_seconds=1.0, poll_seconds=0.02)
PATIENCE = Patience(ask_again_seconds=(0, 0), retry_seconds=(0, 0, 0), stall_seconds=60)


def safetensors(size_bytes: int, seed: int) -> bytes:
    """A valid file with one tensor of random bytes."""
    header = json.dumps({"weight": {"dtype": "U8", "shape": [size_bytes], "data_offsets": [0, size_bytes]}}).encode()
    return struct.pack("<Q", len(header)) + header + random.Random(seed).randbytes(size_bytes)


def model_files(size_bytes: int = 200_000, shards: int = 2) -> dict[str, bytes]:
    """A repository as people make them: the files vLLM needs, and others."""
    names = [f"model-{number:05d}-of-{shards:05d}.safetensors" for number in range(1, shards + 1)]
    weights = {name: safetensors(size_bytes, seed) for seed, name in enumerate(names)}
    index = json.dumps({"weight_map": {str(number): name for number, name in enumerate(names)}}).encode()
    return weights | {
        "model.safetensors.index.json": index,
        "config.json": b'{"architectures": []}',
        "tokenizer.json": b'{"version": "1.0"}' * 400,
        "chat_template.jinja": b"{{ messages }}",
        "modeling_demo.py": b"print('never run')",
        "pytorch_model.bin": b"pickle" * 1000,
        "README.md": b"# Demo",
        "original/consolidated.00.pth": b"pickle" * 1000,
    }


def needed(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Those of `model_files` that are to be downloaded."""
    left_out = ("modeling_demo.py", "pytorch_model.bin", "README.md", "original/consolidated.00.pth")
    return {path: content for path, content in files.items() if path not in left_out}


def cache(root: Path, url: str, *, verify: bool = False, token: str | None = None, pace: Pace = PACE) -> ModelCache:
    """A worker's cache on a volume."""
    directories = (ModelDirectory("the volume", root, own=True),)
    return ModelCache(directories, Hub(url, token), verify=verify, pace=pace, patience=PATIENCE)


def contents(directory: Path) -> dict[str, bytes]:
    """The model's files on the disk, without the manifest."""
    found = {path.relative_to(directory).as_posix(): path for path in directory.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith(".model-manifest")}


def hashes(directory: Path) -> dict[str, str]:
    """As `contents`, hashed."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents(directory).items()}


def left_behind(root: Path) -> list[str]:
    """Whatever lies in the staging directories."""
    directory = RepositoryDirectory.of(root, NAME)
    return [path.name for path in (directory.path / ".staging").rglob("*") if path.is_file()]


def start_worker(root: Path, url: str, *options: str) -> subprocess.Popen[str]:
    """A worker as a process of its own; its last line of stdout is the path of the model."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.handler.model_cache.worker", str(root), url, *options],
        cwd=ROOT,
        # An engine of another test may have told its children, which these are not, to stay off the hub.
        env={name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def path_of(worker: subprocess.Popen[str]) -> Path:
    """Waits for the worker's end; the directory that it would give to vLLM."""
    stdout, stderr = worker.communicate(timeout=120)
    assert worker.returncode == 0, stderr
    return Path(stdout.splitlines()[-1])
