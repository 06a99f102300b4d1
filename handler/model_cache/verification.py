"""Reads every file of a model and compares it with the manifest's hashes, which finds what a size does not show."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence

from handler.model_cache.digest import sha256_of
from handler.model_cache.manifest import Manifest, ModelFile
from handler.model_cache.progress import Meter
from handler.volume.path import VolumePath

READERS = 4


def broken_files(directory: VolumePath, manifest: Manifest, meter: Meter) -> list[ModelFile]:
    """Returns the files that are missing, of another size, or of another content; nothing for a good model."""
    files: queue.SimpleQueue[ModelFile] = queue.SimpleQueue()
    for file in manifest.files:
        files.put(file)
    broken: list[ModelFile] = []

    def check() -> None:
        while True:
            try:
                file = files.get_nowait()
            except queue.Empty:
                return
            if not is_good(directory, file, meter):
                broken.append(file)

    threads = [threading.Thread(target=check, name="model-verification", daemon=True) for _ in range(READERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(broken, key=lambda file: file.path)


def still_broken(directory: VolumePath, files: Sequence[ModelFile]) -> list[ModelFile]:
    """Returns those that have not been mended meanwhile."""
    meter = Meter("", 0)
    return [file for file in files if not is_good(directory, file, meter)]


def is_good(directory: VolumePath, file: ModelFile, meter: Meter) -> bool:
    """Returns whether the file has its content."""
    path = directory / file.path
    try:
        return path.size() == file.size_bytes and sha256_of(path, meter.received) == file.sha256
    except OSError:
        return False
