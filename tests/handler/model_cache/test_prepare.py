"""One worker and a hub that fails: what is on the disk afterwards, what is said, and what is never asked or told."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from handler.errors import ModelRefused, ModelUnavailable
from handler.model_cache.hub import Hub
from handler.model_cache.layout import RepositoryDirectory
from handler.model_cache.locate import ModelDirectory, ModelRequest
from handler.model_cache.prepare import ModelCache
from handler.model_cache.progress import Progress
from tests.handler.model_cache import support
from tests.handler.model_cache.attempts import attempt
from tests.handler.model_cache.hub_server import Fault, HubServer
from tests.handler.model_cache.support import NAME, cache, contents

FILES = support.model_files(size_bytes=100_000)
NEEDED = support.needed(FILES)
SHARD = "model-00001-of-00002.safetensors"
REQUEST = ModelRequest(NAME)
NO_HUB = "http://127.0.0.1:9"


def prepared(model_cache: ModelCache, request: ModelRequest = REQUEST) -> Path:
    return Path(model_cache.prepare(request, lambda progress: None).path)


@pytest.fixture
def hub() -> HubServer:
    server = HubServer()
    server.add(NAME, FILES)
    return server


def test_only_what_vllm_needs_is_downloaded_and_then_the_hub_is_never_asked_again(
    hub: HubServer, tmp_path: Path
) -> None:
    with hub.running():
        path = prepared(cache(tmp_path, hub.url))
    assert contents(path) == NEEDED
    assert prepared(cache(tmp_path, NO_HUB)) == path
    assert prepared(cache(tmp_path, NO_HUB), ModelRequest("Org/DEMO")) == path
    assert prepared(cache(tmp_path, NO_HUB, verify=True)) == path


def test_the_served_name_is_the_one_that_was_asked_for(hub: HubServer, tmp_path: Path) -> None:
    with hub.running():
        model = cache(tmp_path, hub.url).prepare(REQUEST)
    assert (model.served_name, model.source) == (NAME, "the volume")


@pytest.mark.parametrize(
    "fault",
    [
        Fault(SHARD, cut_after_bytes=50_000),
        Fault(SHARD, times=2, cut_after_bytes=0),
        Fault(SHARD, times=3, status=500),
        Fault(SHARD, status=429, headers={"Retry-After": "0"}),
        Fault("/revision/main", times=2, status=503),
        Fault("/revision/main", status=429, headers={"Retry-After": "0"}),
        Fault(SHARD, times=2, corrupt=True),
        Fault("tokenizer.json", corrupt=True),
        Fault("chat_template.jinja", corrupt=True),
        Fault(SHARD, ignore_range=True),
    ],
    ids=str,
)
def test_a_hub_that_recovers_costs_no_more_than_patience(hub: HubServer, tmp_path: Path, fault: Fault) -> None:
    hub.faults.append(replace(fault))
    with hub.running():
        path = prepared(cache(tmp_path, hub.url))
    assert contents(path) == NEEDED
    assert hub.faults[0].times == 0


def test_a_cut_connection_is_taken_up_where_it_broke_also_by_a_server_that_knows_no_range(
    hub: HubServer, tmp_path: Path
) -> None:
    hub.faults += [Fault(SHARD, cut_after_bytes=50_000), Fault(SHARD, ignore_range=True)]
    with hub.running():
        assert contents(prepared(cache(tmp_path, hub.url))) == NEEDED


@pytest.mark.parametrize("fault", [Fault(SHARD, times=99, status=500), Fault(SHARD, times=99, corrupt=True)], ids=str)
def test_a_hub_that_does_not_recover_is_named_and_nothing_is_published(
    hub: HubServer, tmp_path: Path, fault: Fault
) -> None:
    hub.faults.append(replace(fault))
    with hub.running():
        with pytest.raises(ModelUnavailable, match=rf"(?s)Tried, in order: .* the volume .*127.0.0.1.*{SHARD}"):
            prepared(cache(tmp_path, hub.url))
        assert not RepositoryDirectory.of(tmp_path, NAME).snapshots.is_dir()
        hub.faults.clear()
        assert contents(prepared(cache(tmp_path, hub.url))) == NEEDED


def test_without_a_hub_one_error_says_what_was_tried_in_order(tmp_path: Path) -> None:
    directories = (ModelDirectory("the image", tmp_path / "a"), ModelDirectory("the volume", tmp_path / "b", own=True))
    model_cache = ModelCache(directories, Hub(NO_HUB), pace=support.PACE, patience=support.PATIENCE)
    with pytest.raises(ModelUnavailable) as caught:
        prepared(model_cache)
    message = caught.value.message
    order = [message.index(tried) for tried in ("a local path", "the image", "the volume", "127.0.0.1:9")]
    assert order == sorted(order)
    assert "does not answer" in message
    assert caught.value.retryable


def test_told_to_stay_offline_the_hub_is_not_asked(hub: HubServer, tmp_path: Path) -> None:
    with hub.running(), pytest.raises(ModelUnavailable, match="HF_HUB_OFFLINE is set"):
        prepared(replace(cache(tmp_path, hub.url), hub=Hub(hub.url, offline=True)))
    assert hub.asked == []


@pytest.mark.parametrize(
    ("fault", "token", "message"),
    [
        (Fault("/revision/main", status=401, headers={"X-Error-Code": "GatedRepo"}), None, "HF_TOKEN is not set"),
        (Fault("/revision/main", status=403, headers={"X-Error-Code": "GatedRepo"}), "hf_right", "accept its terms"),
        (Fault(SHARD, status=403, headers={"X-Error-Code": "GatedRepo"}), "hf_right", "accept its terms"),
        (Fault("/revision/main", status=403), "hf_right", "accept its terms"),
        (Fault("none", status=404), "hf_wrong", "HF_TOKEN: .* does not accept it"),
        (Fault("/revision/main", status=404, headers={"X-Error-Code": "RepoNotFound"}), None, "check the spelling"),
        (Fault("/revision/main", status=401, headers={"X-Error-Code": "RepoNotFound"}), None, "needs HF_TOKEN"),
        (Fault("/revision/main", status=404, headers={"X-Error-Code": "RevisionNotFound"}), None, "MODEL_REVISION"),
        (Fault(SHARD, status=404, headers={"X-Error-Code": "EntryNotFound"}), None, "is gone"),
    ],
    ids=str,
)
def test_a_refusal_names_the_remedy_and_no_token(
    hub: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, *, fault: Fault, token: str | None, message: str
) -> None:
    hub.faults.append(replace(fault))
    caplog.set_level(logging.DEBUG)
    with hub.running(), pytest.raises(ModelRefused, match=message) as caught:
        prepared(cache(tmp_path, hub.url, token=token))
    said = caplog.text + caught.value.to_json_text() + repr(cache(tmp_path, hub.url, token=token))
    assert token is None or token not in said
    assert not caught.value.retryable


def test_a_token_opens_a_gated_repository(hub: HubServer, tmp_path: Path) -> None:
    hub.repositories[NAME].gated = True
    with hub.running():
        assert contents(prepared(cache(tmp_path, hub.url, token="hf_right"))) == NEEDED


def test_a_revision_is_pinned_once_it_is_here_and_another_is_another_model(hub: HubServer, tmp_path: Path) -> None:
    with hub.running():
        first = prepared(cache(tmp_path, hub.url))
        newer = hub.repositories[NAME].commit(FILES | {"config.json": b'{"newer": 1}'})
        assert prepared(cache(tmp_path, hub.url)) == first
        second = prepared(cache(tmp_path, hub.url), ModelRequest(NAME, newer))
    assert second.name == newer
    assert (contents(first), contents(second)) == (NEEDED, NEEDED | {"config.json": b'{"newer": 1}'})


def test_a_branch_that_moves_during_the_download_changes_nothing(hub: HubServer, tmp_path: Path) -> None:
    def move(path: str) -> None:
        if "/resolve/" in path and len(repository.commits) == 1:
            repository.commit(FILES | {"config.json": b'{"newer": 1}'})

    repository = hub.repositories[NAME]
    hub.on_request = move
    with hub.running():
        assert contents(prepared(cache(tmp_path, hub.url))) == NEEDED


def test_what_an_attempt_at_an_older_commit_has_left_is_dropped(hub: HubServer, tmp_path: Path) -> None:
    hub.faults.append(Fault(SHARD, times=99, status=500))
    with hub.running():
        with pytest.raises(ModelUnavailable):
            prepared(cache(tmp_path, hub.url))
        hub.faults.clear()
        hub.repositories[NAME].commit(FILES | {"config.json": b"{}"})
        assert contents(prepared(cache(tmp_path, hub.url))) == NEEDED | {"config.json": b"{}"}
    assert support.left_behind(tmp_path) == []


def test_the_code_of_a_repository_comes_only_when_it_is_trusted(hub: HubServer, tmp_path: Path) -> None:
    with_code = ModelRequest(NAME, with_code=True)
    with hub.running():
        path = prepared(cache(tmp_path, hub.url))
        hub.sent_bytes.clear()
        assert prepared(cache(tmp_path, hub.url), with_code) == path
    assert set(hub.sent_bytes) == {"modeling_demo.py"}
    assert prepared(cache(tmp_path, NO_HUB), with_code) == prepared(cache(tmp_path, NO_HUB)) == path


@pytest.mark.parametrize("harm", ["flip", "shorten", "remove"])
def test_a_broken_file_is_found_when_asked_and_alone_fetched_anew(hub: HubServer, tmp_path: Path, harm: str) -> None:
    with hub.running():
        path = prepared(cache(tmp_path, hub.url))
        _harm(path / SHARD, harm)
        hub.sent_bytes.clear()
        assert prepared(cache(tmp_path, hub.url, verify=True)) == path
    assert contents(path) == NEEDED
    assert hub.sent_bytes == {SHARD: len(NEEDED[SHARD])}


def _harm(path: Path, harm: str) -> None:
    content = path.read_bytes()
    if harm == "remove":
        path.unlink()
    else:
        path.write_bytes(content[:-1] + (bytes([content[-1] ^ 4]) if harm == "flip" else b""))


def test_a_broken_file_and_no_hub_is_an_error_that_names_the_file(hub: HubServer, tmp_path: Path) -> None:
    with hub.running():
        path = prepared(cache(tmp_path, hub.url))
    _harm(path / SHARD, "flip")
    with pytest.raises(ModelUnavailable, match=rf"broken files \({SHARD}\) .* does not answer"):
        prepared(cache(tmp_path, NO_HUB, verify=True))
    assert prepared(cache(tmp_path, NO_HUB)) == path


def test_a_broken_model_in_the_image_is_passed_over(hub: HubServer, tmp_path: Path) -> None:
    with hub.running():
        baked = prepared(cache(tmp_path / "image", hub.url))
        directories = (
            ModelDirectory("the image", tmp_path / "image"),
            ModelDirectory("the volume", tmp_path / "volume", own=True),
        )
        model_cache = replace(cache(tmp_path, hub.url, verify=True), directories=directories)
        assert prepared(model_cache) == baked
        _harm(baked / SHARD, "flip")
        path = prepared(model_cache)
    assert path.is_relative_to(tmp_path / "volume")
    assert contents(path) == NEEDED


def test_a_volume_that_is_too_small_says_what_is_missing(hub: HubServer, tmp_path: Path) -> None:
    commit = hub.repositories[NAME].refs["main"]
    with hub.running():
        revision = Hub(hub.url).revision(NAME, commit)
    huge = replace(revision.files[0], size_bytes=1 << 60)
    with pytest.raises(ModelRefused, match=r"needs \d+\.\d\d GiB, .* free, .* missing: free some"):
        attempt(tmp_path, Hub(hub.url), revision).fetch([huge], lambda: None)


def test_progress_is_told_with_rate_and_time_left(hub: HubServer, tmp_path: Path) -> None:
    told: list[Progress] = []
    with hub.running():
        cache(tmp_path, hub.url).prepare(REQUEST, told.append)
    assert told[-1].done_bytes == told[-1].total_bytes == sum(map(len, NEEDED.values()))
    assert told[-1].bytes_per_second > 0
    assert "(100 %)" in str(told[-1])


def test_a_file_name_that_leaves_the_directory_is_refused(hub: HubServer, tmp_path: Path) -> None:
    hub.add(NAME, FILES | {"../../../evil.json": b"{}"})
    with hub.running(), pytest.raises(ModelUnavailable, match="cannot be used"):
        prepared(cache(tmp_path / "volume", hub.url))
    assert not list(tmp_path.rglob("evil.json"))


@pytest.mark.parametrize("name", ["/no/such/model", "./none", "~/none"])
def test_a_path_that_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelRefused, match="no such file or directory"):
        cache(tmp_path, NO_HUB).prepare(ModelRequest(name))


@pytest.mark.parametrize("name", ["s3://bucket/model", "org/model:Q4_K_M"])
def test_names_of_other_loaders_are_left_to_vllm(tmp_path: Path, name: str) -> None:
    assert cache(tmp_path, NO_HUB).prepare(ModelRequest(name)).path == name
