"""Chooses the files of a repository that vLLM needs. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
TEXTS = (".json", ".jinja", ".model", ".txt", ".tiktoken")
CODE = ".py"
# What training leaves behind; loading it as weights would fail.
NOT_WEIGHTS = re.compile(r"(training_args|optimizer|scheduler|rng_state|scaler)[^/]*$")
MISTRAL = re.compile(r"consolidated[^/]*\.safetensors$")
# Sentence-transformers keeps its further layers in directories like 2_Dense.
MODULE = re.compile(r"\d+_\w+")
OTHER_FRAMEWORKS = frozenset({"original", "onnx", "openvino", "metal", "coreml", "gguf"})


@dataclass(frozen=True)
class Selection:
    """The files to have.

    A choice that the repository does not offer counts as made: either answer gives these files.
    """

    paths: tuple[str, ...]
    #: Nothing is missing for `--trust-remote-code`.
    with_code: bool
    #: Which of two sets of weights they are; None where there is only one.
    mistral_format: bool | None


def select(paths: Iterable[str], *, with_code: bool = False, mistral_format: bool = True) -> Selection:
    """Returns the weights in one format, safetensors first, and the small files around them.

    mistral_format: prefer Mistral's own weights where both are there, as vLLM's `--load-format auto` does.
    """
    paths = [path for path in paths if PurePosixPath(path).parts[0] not in OTHER_FRAMEWORKS]
    own = [path for path in paths if _holds_weights(path)]
    consolidated = [path for path in own if MISTRAL.search(path)]
    usual = _first_format([path for path in own if path not in consolidated])
    weights = consolidated if consolidated and (mistral_format or not usual) else usual
    texts = [path for path in paths if path.endswith(TEXTS) and not _indexes_others(path, weights)]
    if usual and weights is usual and consolidated:
        texts = [path for path in texts if path != "params.json"]  # else vLLM takes it for Mistral's format
    code = [path for path in paths if path.endswith(CODE)]
    return Selection(
        tuple(sorted({*weights, *texts, *(code if with_code else ())})),
        with_code=with_code or not code,
        mistral_format=weights is consolidated if consolidated and usual else None,
    )


def _first_format(weights: Collection[str]) -> list[str]:
    by_format = ([path for path in weights if path.endswith(ending)] for ending in WEIGHTS)
    return next((found for found in by_format if found), [])


def _holds_weights(path: str) -> bool:
    parents = PurePosixPath(path).parts[:-1]
    return (
        path.endswith(WEIGHTS) and not NOT_WEIGHTS.search(path) and all(MODULE.fullmatch(parent) for parent in parents)
    )


def _indexes_others(path: str, weights: Collection[str]) -> bool:
    """Returns whether a file lists the shards of a format that is not taken: vLLM would look for them."""
    index = re.fullmatch(r"(.*)(\.safetensors|\.bin)\.index\.json", path)
    return bool(index and weights and not any(w.startswith(index[1]) and w.endswith(index[2]) for w in weights))
