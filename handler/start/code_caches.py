"""Keeps what will be run as code on the worker's own disk, and libraries' caches out of planted directories.

An image may name a directory on a volume for the caches of libraries (XDG_CACHE_HOME, HF_HOME), because a model and
what is known of it may well lie there. Python files of a model and compiled extensions may not: whoever else has the
volume could put theirs in the place.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from handler.settings import export
from handler.volume.opening import NotOurs
from handler.volume.path import VolumePath

logger = logging.getLogger(__name__)

#: Where libraries keep code, unless these say otherwise, below HF_HOME or XDG_CACHE_HOME.
CODE_DIRECTORIES = {"HF_MODULES_CACHE": "huggingface-modules", "TORCH_EXTENSIONS_DIR": "torch-extensions"}
#: What is written to by its path, below the directories that a variable names.
WRITTEN_BELOW = {"XDG_CACHE_HOME": ("vllm/modelinfos",), "HF_HOME": ("hub", "xet", "modules", "assets")}


def keep_code_here(
    local_root: Path,
    environment: Mapping[str, str],
    set_variables: Callable[[Mapping[str, str]], None] = lambda variables: export(variables, overwrite=True),
) -> None:
    """Sets the variables of caches that would be on a volume otherwise. A user's own variable for code stays.

    Must run before the libraries are imported.
    """
    if not are_placed(environment):
        return
    local = private_directory(local_root)
    code = {name: str(local / directory) for name, directory in CODE_DIRECTORIES.items() if not environment.get(name)}
    moved = {name: str(local / name.lower()) for name in WRITTEN_BELOW if _is_planted(environment.get(name), name)}
    set_variables(code | moved)


def are_placed(environment: Mapping[str, str]) -> bool:
    """Returns whether a variable names the place of libraries' caches, which may be on a volume then."""
    return any(environment.get(name) for name in WRITTEN_BELOW)


def _is_planted(value: str | None, name: str) -> bool:
    """Returns whether libraries that write below the directory would be led out of it; logs why."""
    if not value:
        return False
    for below in WRITTEN_BELOW[name]:
        try:
            with (VolumePath(Path(value)) / below).opened():
                continue
        except NotOurs as error:
            logger.warning("%s=%s is not used: %s (%s)", name, value, error.strerror, error.filename)
            return True
        except OSError:  # not there yet, or not to be written
            continue
    return False


def private_directory(path: Path) -> Path:
    """Returns the directory, made where it was not there, or a fresh one where somebody else may write to that."""
    try:
        directory = VolumePath(path)
        directory.make()
        reason = directory.distrusted_because()
    except OSError as error:
        reason = str(error)
    if reason is None:
        return path
    fresh = Path(tempfile.mkdtemp(prefix=f"{path.name}-"))
    logger.warning("%s is not used for code: %s; using %s", path, reason, fresh)
    return fresh
