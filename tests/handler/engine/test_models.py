"""vLLM's flags after every hub name was replaced by a directory, and adapters that are loaded while it serves."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from handler.engine.adapters import LOAD_ADAPTER_PATH
from handler.engine.models import EngineModels, Interrupted
from handler.engine.protocol import EngineRequest
from handler.errors import InvalidInput, ModelRefused
from handler.model_cache.lease import Pace
from handler.settings import DEMO_MODEL_DIR, ModelSettings
from tests.handler.model_cache import support
from tests.handler.model_cache.hub_server import Fault, HubServer, files_below
from tests.handler.model_cache.support import NAME
from tests.waiting import until

FILES = support.model_files(size_bytes=10_000)
ADAPTER = files_below(DEMO_MODEL_DIR / "adapters" / "pirate")


@dataclass(frozen=True)
class Adapter:
    """As vLLM's own LoRAModulePath."""

    name: str
    path: str


def arguments(**flags: object) -> argparse.Namespace:
    defaults = {
        "model": NAME,
        "revision": None,
        "served_model_name": None,
        "tokenizer": None,
        "trust_remote_code": False,
        "load_format": "auto",
        "lora_modules": None,
    }
    return argparse.Namespace(**(defaults | flags))


def models(root: Path, url: str, *, managed: bool = True) -> EngineModels:
    return EngineModels(ModelSettings(root, host_cache_dir=root / "no", endpoint=url, managed=managed))


@pytest.fixture
def hub() -> HubServer:
    server = HubServer()
    server.add(NAME, FILES)
    server.add("org/pirate", ADAPTER)
    return server


def test_model_and_adapters_become_directories_and_the_served_name_stays(hub: HubServer, tmp_path: Path) -> None:
    own = str(DEMO_MODEL_DIR / "adapters" / "pirate")
    flags = arguments(revision="main", lora_modules=[Adapter("pirate", "org/pirate"), Adapter("own", own)])
    with hub.running():
        models(tmp_path, hub.url).localise(flags)
    assert support.contents(Path(flags.model)) == support.needed(FILES)
    assert (flags.served_model_name, flags.revision) == ([NAME], None)
    assert [adapter.name for adapter in flags.lora_modules] == ["pirate", "own"]
    assert support.contents(Path(flags.lora_modules[0].path)) == ADAPTER
    assert flags.lora_modules[1].path == own


@pytest.mark.parametrize(
    ("directory", "name"),
    [("mine", "mine"), ("cache/models--org--demo/snapshots/0123", "org/demo"), ("a b/My Model", "My Model")],
)
def test_a_directory_is_served_by_its_name_and_by_the_path_that_was_given(
    directory: str, name: str, tmp_path: Path
) -> None:
    path = tmp_path / directory
    shutil.copytree(DEMO_MODEL_DIR, path)
    flags = arguments(model=str(path))
    models(tmp_path / "cache", "http://127.0.0.1:9").localise(flags)
    assert (flags.model, flags.served_model_name) == (str(path), [name, str(path)])


@pytest.mark.parametrize(
    ("flags", "variable", "words"),
    [
        ({"model": "/no/such"}, "MODEL_NAME", "no such file or directory"),
        ({"model": "~nobody-here/x"}, "MODEL_NAME", "cannot be used as a path"),
        ({"model": "/" + "x" * 5000}, "MODEL_NAME", "cannot be used as a path"),
        ({"lora_modules": [Adapter("a", "/no/such")]}, "LORA_MODULES", "adapter 'a': /no/such: there is no"),
        ({"lora_modules": [Adapter("a", "no/such")]}, "LORA_MODULES", "adapter 'a': 127.0.0.1"),
        ({"lora_modules": [Adapter("a", str(DEMO_MODEL_DIR.parent))]}, "LORA_MODULES", "it has no config.json"),
    ],
)
def test_a_wrong_name_is_blamed_on_the_variable_that_gave_it(
    flags: dict[str, object], variable: str, words: str, hub: HubServer, tmp_path: Path
) -> None:
    with hub.running(), pytest.raises(ModelRefused) as refused:
        models(tmp_path, hub.url).localise(arguments(**flags))
    assert refused.value.param == variable
    assert refused.value.message.startswith(f"{variable}: ")
    assert words in refused.value.message


def test_the_variable_is_the_one_that_was_really_set(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=r"^VLLM_EXTRA_ARGS: /no/such: "):
        models(tmp_path, "http://127.0.0.1:9").localise(arguments(model="/no/such"), lambda flag: "VLLM_EXTRA_ARGS")


def test_a_served_name_that_was_set_is_kept(hub: HubServer, tmp_path: Path) -> None:
    flags = arguments(served_model_name=["mine"])
    with hub.running():
        models(tmp_path, hub.url).localise(flags)
    assert flags.served_model_name == ["mine"]


@pytest.mark.parametrize(
    ("flags", "managed"), [({"model": "s3://bucket/model"}, True), ({"load_format": "dummy"}, True), ({}, False)]
)
def test_what_is_local_or_left_to_vllm_stays_as_it_is(tmp_path: Path, flags: dict[str, object], managed: bool) -> None:
    given = arguments(**flags)
    models(tmp_path / "cache", "http://127.0.0.1:9", managed=managed).localise(given)
    assert given == arguments(**flags)
    assert not (tmp_path / "cache").exists()


def load(body: object) -> EngineRequest:
    return EngineRequest("POST", LOAD_ADAPTER_PATH, json.dumps(body).encode())


async def test_an_adapter_loaded_while_serving_is_fetched_and_given_by_its_directory(
    hub: HubServer, tmp_path: Path
) -> None:
    with hub.running():
        request = await models(tmp_path, hub.url).with_local_adapter(
            load({"lora_name": "pirate", "lora_path": "org/pirate"})
        )
    body = json.loads(request.body or b"")
    assert body["lora_name"] == "pirate"
    assert support.contents(Path(body["lora_path"])) == ADAPTER


async def test_an_adapter_that_cannot_be_had_is_the_callers_error(hub: HubServer, tmp_path: Path) -> None:
    hub.faults.append(Fault("/revision/main", status=404, headers={"X-Error-Code": "RepoNotFound"}))
    with hub.running(), pytest.raises(InvalidInput, match=r"lora_path: .*check the spelling"):
        await models(tmp_path, hub.url).with_local_adapter(load({"lora_name": "x", "lora_path": "org/x"}))


async def test_a_download_that_is_left_ends_soon_and_the_next_goes_on_without_waiting_for_its_lease(
    hub: HubServer, tmp_path: Path
) -> None:
    request = load({"lora_name": "pirate", "lora_path": "org/pirate"})
    with hub.running():
        here = models(tmp_path, hub.url)
        hub.bytes_per_second = 1000.0
        loading = asyncio.create_task(here.with_local_adapter(request))
        await until(lambda: any("safetensors" in path for _, path in list(hub.asked)))
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        hub.bytes_per_second = None
        async with asyncio.timeout(Pace().stale_seconds / 2):
            await here.with_local_adapter(request)


async def test_a_load_whose_download_is_interrupted_ends_soon(hub: HubServer, tmp_path: Path) -> None:
    with hub.running():
        here = models(tmp_path, hub.url)
        hub.bytes_per_second = 1000.0
        loading = asyncio.create_task(asyncio.to_thread(here.localise, arguments()))
        await until(lambda: any("safetensors" in path for _, path in list(hub.asked)))
        here.interrupt()
        async with asyncio.timeout(5):
            with pytest.raises(Interrupted):
                await loading


@pytest.mark.parametrize(
    "request_",
    [
        load([]),
        load({"lora_path": 5}),
        EngineRequest("POST", LOAD_ADAPTER_PATH),
    ],
)
async def test_a_request_without_an_adapters_name_passes_unchanged(tmp_path: Path, request_: EngineRequest) -> None:
    assert await models(tmp_path, "http://127.0.0.1:9").with_local_adapter(request_) is request_
