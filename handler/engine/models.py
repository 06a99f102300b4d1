"""Replaces every model and adapter that vLLM's flags name by a directory on this disk."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from handler.engine.arguments import variable_of
from handler.engine.protocol import EngineRequest
from handler.errors import InvalidInput, ModelRefused
from handler.model_cache.hub import Hub
from handler.model_cache.layout import DEFAULT_REVISION
from handler.model_cache.locate import ModelDirectory, ModelRequest, local_path, locate
from handler.model_cache.prepare import ModelCache, PreparedModel
from handler.model_cache.progress import LogNowAndThen, Progress
from handler.settings import ModelSettings, export
from handler.start.daemon_threads import DaemonThreads

# Formats whose files the cache can choose. With another (dummy, gguf, tensorizer, ...) vLLM fetches its own.
LOAD_FORMATS = frozenset(
    {"auto", "hf", "safetensors", "fastsafetensors", "instanttensor", "mistral", "bitsandbytes", "runai_streamer"}
)
MISTRAL_FORMATS = frozenset({"auto", "mistral"})
# Adapters that are fetched at the same time while the worker serves.
DOWNLOADS_AT_ONCE = 16
# Flags that may name further repositories: small files of them, or a draft model, which vLLM fetches by itself.
OTHER_REPOSITORIES = ("tokenizer", "speculative_config", "hf_config_path")


def model_cache(settings: ModelSettings) -> ModelCache:
    """Returns the cache that the settings describe."""
    directories = [
        ModelDirectory("the image", settings.baked_dir),
        ModelDirectory("RunPod's host cache", settings.host_cache_dir),
        *([ModelDirectory("the hub client's cache", settings.hub_cache_dir)] if settings.hub_cache_dir else []),
        ModelDirectory("the volume", settings.cache_dir, own=True),
    ]
    hub = Hub(settings.endpoint, settings.token, offline=settings.offline)
    return ModelCache(tuple(directories), hub, verify=settings.verify)


class Interrupted(Exception):
    """A download was left by its caller, or the worker stops."""


def prepare(cache: ModelCache, request: ModelRequest, stop: threading.Event) -> PreparedModel:
    """Returns the model once it is on the disk, as the cache does; raises Interrupted soon after `stop` is set.

    The lease is released then, so that another worker can go on with what has come.
    """
    log = LogNowAndThen()

    def report(progress: Progress) -> None:
        if stop.is_set():
            raise Interrupted
        log(progress)

    def pause(seconds: float) -> None:
        if stop.wait(seconds):
            raise Interrupted

    return replace(cache, sleep=pause).prepare(request, report)


class EngineModels:
    """Brings the models and adapters of the engine to the disk."""

    def __init__(self, settings: ModelSettings) -> None:
        self._managed = settings.managed
        self._name, self._revision = settings.name, settings.revision or DEFAULT_REVISION
        self._cache = model_cache(settings)
        self._stop = threading.Event()
        self._adapters = DaemonThreads("adapter-download", DOWNLOADS_AT_ONCE)

    def interrupt(self) -> None:
        """Makes `localise`, in whatever thread it runs, raise Interrupted soon."""
        self._stop.set()

    def path_on_disk(self) -> Path | None:
        """Returns where the model of the settings is, if it is here already. Known before vLLM has parsed its flags."""
        name = self._name
        if not name or not self._managed:
            return None
        with contextlib.suppress(ModelRefused):  # `localise` raises it again
            found = local_path(name) or locate(ModelRequest(name, self._revision), self._cache.directories)
            return found.path if found else None
        return None

    def localise(self, arguments: argparse.Namespace, source_of: Callable[[str], str] = variable_of) -> None:
        """Replaces names by paths in vLLM's flags and keeps the names that callers use.

        `source_of` returns the variable that sets a flag. Raises ModelRefused, naming it, or ModelUnavailable.
        """
        if not self._managed or arguments.load_format not in LOAD_FORMATS:
            return
        named = arguments.model
        with _named_by(source_of("model")):
            prepared = prepare(self._cache, model_request(arguments), self._stop)
        if Path(named).is_dir() or prepared.path != named:
            arguments.served_model_name = arguments.served_model_name or served_names(prepared)
        if prepared.path != named:
            arguments.model, arguments.revision = prepared.path, None
            if arguments.tokenizer == named:
                arguments.tokenizer, arguments.tokenizer_revision = None, None
        variable = source_of("lora_modules")
        adapters = [self._local_adapter(adapter, variable) for adapter in arguments.lora_modules or ()]
        arguments.lora_modules = adapters or None
        if not any(getattr(arguments, name, None) for name in OTHER_REPOSITORIES):
            # For vLLM's child processes. This one has read the variable before, and fetches adapters while it serves.
            export({"HF_HUB_OFFLINE": "1"})

    def _local_adapter(self, adapter: Any, variable: str) -> Any:
        with _named_by(variable, f"adapter {adapter.name!r}: "):
            prepared = prepare(self._cache, ModelRequest(adapter.path), self._stop)
        return dataclasses.replace(adapter, path=prepared.path)

    async def with_local_adapter(self, request: EngineRequest) -> EngineRequest:
        """Returns a request to load an adapter with the adapter's directory in the place of its name.

        A body that names no adapter stays as it is. Raises InvalidInput for an adapter that cannot be had, and
        ModelUnavailable when the hub fails.
        """
        if not self._managed:
            return request
        try:
            body = json.loads(request.body or b"")
            name = body["lora_path"]
        except (ValueError, KeyError, TypeError):
            return request  # vLLM answers with what is wrong
        if not isinstance(name, str):
            return request
        try:
            prepared = await self._adapters.run(lambda left: prepare(self._cache, ModelRequest(name), left))
        except ModelRefused as error:
            raise InvalidInput(f"lora_path: {error.message}", param="lora_path") from error
        return replace(request, body=json.dumps(body | {"lora_path": prepared.path}).encode())


@contextmanager
def _named_by(variable: str, what: str = "") -> Iterator[None]:
    """Lets an error of a model say which variable named it."""
    try:
        yield
    except ModelRefused as error:
        raise error.named_by(variable, what) from error


def served_names(prepared: PreparedModel) -> list[str]:
    """Returns the names that callers may use for a model: its own, and for a directory what was given too.

    vLLM shows the first in its answers. A path there would show callers how this worker's disk is laid out.
    """
    path = Path(prepared.served_name)
    if not path.is_absolute() or not path.name:
        return [prepared.served_name]
    repository = next((part for part in path.parts if part.startswith("models--")), None)
    name = repository.removeprefix("models--").replace("--", "/", 1) if repository else path.name
    return [name, prepared.served_name]


def model_request(arguments: argparse.Namespace) -> ModelRequest:
    """Returns the model that vLLM's flags name."""
    return ModelRequest(
        arguments.model,
        arguments.revision or DEFAULT_REVISION,
        with_code=arguments.trust_remote_code,
        mistral_format=arguments.load_format in MISTRAL_FORMATS,
    )
