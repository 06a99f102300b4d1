"""Adapters from the shared folder: which names find one, when it is loaded, and what callers are told."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from handler.engine import adapters
from handler.engine.adapters import (
    LOAD_ADAPTER_PATH,
    UNLOAD_ADAPTER_PATH,
    AdapterNotLoadable,
    AdaptersAreFixed,
    SharedAdapters,
)
from handler.engine.protocol import Document, EngineRequest
from handler.errors import InvalidInput


@dataclass
class Served:
    """An engine's adapters. Loading one waits for `go_on`, and fails with `refusal`."""

    names: set[str] = field(default_factory=set)
    loads: list[tuple[str, Path]] = field(default_factory=list)
    refusal: str | None = None
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    def has(self, name: str) -> bool:
        return name in self.names

    async def load(self, name: str, path: Path) -> None:
        self.loads.append((name, path))
        await self.go_on.wait()
        if self.refusal:
            raise InvalidInput(self.refusal)
        self.names.add(name)


@pytest.fixture
def served() -> Served:
    served = Served()
    served.go_on.set()
    return served


def adapter(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "adapter_config.json").write_text("{}")
    return directory


def naming(model: object) -> EngineRequest:
    return EngineRequest("POST", "/v1/completions", json.dumps({"model": model, "prompt": "Hi"}).encode())


async def test_an_adapter_in_the_folder_is_loaded_under_its_folders_name(tmp_path: Path, served: Served) -> None:
    path = adapter(tmp_path / "pirate-v2.1")
    assert await SharedAdapters(tmp_path, served).load_for(naming("pirate-v2.1"))
    assert served.loads == [("pirate-v2.1", path)]


@pytest.mark.parametrize(
    "name",
    [
        *("..", ".", "", "../secret", "a/../../secret", "/etc", "a/b", "a\\b", "a\0b", ".hidden", "-flag", "ä", "a b"),
        *("x" * 200, "link-out", "link-loop", "file", "no-config", "config-is-a-folder", "nobody", None, 5, ["a"]),
    ],
    ids=repr,
)
async def test_no_name_reaches_anything_but_an_adapter_inside_the_folder(
    tmp_path: Path, served: Served, name: object
) -> None:
    folder = tmp_path / "adapters"
    adapter(folder / "a" / "b")
    adapter(folder / ".hidden")
    secret = adapter(tmp_path / "secret")
    (folder / "link-out").symlink_to(secret)
    (folder / "link-loop").symlink_to(folder / "link-loop")
    (folder / "file").write_text("")
    (folder / "no-config").mkdir()
    (folder / "config-is-a-folder" / "adapter_config.json").mkdir(parents=True)
    assert not await SharedAdapters(folder, served).load_for(naming(name))
    assert served.loads == []


@pytest.mark.parametrize("body", [None, b"", b"{", b"[]", b'"pirate"', b"{}", b"[" * 100_000, b"\xff"])
async def test_a_body_that_names_no_model_names_no_adapter(tmp_path: Path, served: Served, body: bytes | None) -> None:
    adapter(tmp_path / "pirate")
    assert not await SharedAdapters(tmp_path, served).load_for(EngineRequest("POST", "/v1/x", body))


async def test_a_folder_that_is_not_there_has_no_adapters(tmp_path: Path, served: Served) -> None:
    assert not await SharedAdapters(tmp_path / "no", served).load_for(naming("pirate"))


@pytest.mark.parametrize("planted", ["link", "directory", "fifo"])
async def test_an_adapter_that_would_lead_vllm_out_of_the_folder_is_none(
    tmp_path: Path, served: Served, caplog: pytest.LogCaptureFixture, planted: str
) -> None:
    path = adapter(tmp_path / "adapters" / "pirate")
    (tmp_path / "secret").write_text("secret")
    plants: dict[str, Callable[[Path], None]] = {
        "link": lambda file: file.symlink_to(tmp_path / "secret"),
        "directory": lambda file: file.symlink_to(tmp_path),
        "fifo": os.mkfifo,
    }
    plants[planted](path / "adapter_model.bin")
    assert not await SharedAdapters(tmp_path / "adapters", served).load_for(naming("pirate"))
    assert served.loads == []
    assert "is no adapter: it holds links that lead out" in caplog.text


async def test_a_link_inside_the_folder_is_another_name(tmp_path: Path, served: Served) -> None:
    path = adapter(tmp_path / "pirate-2")
    (tmp_path / "latest").symlink_to(path)
    assert await SharedAdapters(tmp_path, served).load_for(naming("latest"))
    assert served.loads == [("latest", path)]


async def test_many_requests_for_a_new_adapter_load_it_once(tmp_path: Path, served: Served) -> None:
    adapter(tmp_path / "pirate")
    served.go_on.clear()
    shared = SharedAdapters(tmp_path, served)
    requests = [asyncio.create_task(shared.load_for(naming("pirate"))) for _ in range(50)]
    served.go_on.set()
    assert await asyncio.gather(*requests) == [True] * 50
    assert len(served.loads) == 1


async def test_an_adapter_that_cannot_be_loaded_is_the_callers_error_and_rests_for_a_while(
    tmp_path: Path, served: Served
) -> None:
    now = [100.0]
    adapter(tmp_path / "pirate")
    served.refusal = "rank 64 is too high"
    shared = SharedAdapters(tmp_path, served, clock=lambda: now[0])
    for _ in range(100):
        with pytest.raises(AdapterNotLoadable, match=r"model: the adapter 'pirate' .*rank 64 is too high") as caught:
            await shared.load_for(naming("pirate"))
        assert (caught.value.status, caught.value.retryable) == (400, False)
    assert len(served.loads) == 1
    now[0] += adapters.RETRY_SECONDS
    served.refusal = None
    assert await shared.load_for(naming("pirate"))


async def test_names_that_nobody_has_leave_nothing_behind(tmp_path: Path, served: Served) -> None:
    shared = SharedAdapters(tmp_path, served)
    for number in range(500):
        assert not await shared.load_for(naming(f"nobody-{number}"))
    assert shared.refused == {}


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@pytest.mark.parametrize(
    ("path", "words"),
    [(LOAD_ADAPTER_PATH, "Only this worker has it"), (UNLOAD_ADAPTER_PATH, "Only this worker has un")],
)
async def test_the_answer_says_that_one_worker_of_many_has_changed(path: str, words: str) -> None:
    answer = adapters.with_advice(path, Document(200, "", pieces(b"Success: ", b"x.")), Path("/volume/adapters"))
    assert isinstance(answer, Document)
    text = (await answer.read()).decode()
    assert text.startswith(f"Success: x. {words}")
    assert ("/volume/adapters" in text) == (path == LOAD_ADAPTER_PATH)


async def test_a_refusal_stays_as_it_is() -> None:
    answer = Document(400, "application/json", pieces(b"{}"))
    assert adapters.with_advice(LOAD_ADAPTER_PATH, answer, Path("/x")) is answer


def test_a_worker_that_changes_no_adapters_by_request_says_what_would() -> None:
    adapters.check_route(LOAD_ADAPTER_PATH, {LOAD_ADAPTER_PATH}, Path("/x"))
    with pytest.raises(AdaptersAreFixed, match=r"VLLM_ALLOW_RUNTIME_LORA_UPDATING=true .*/volume/adapters") as caught:
        adapters.check_route(LOAD_ADAPTER_PATH, {"/v1/models"}, Path("/volume/adapters"))
    assert caught.value.status == 404
