"""The compile cache: whole archives on the volume, whoever writes at the same time, and whatever is broken."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from handler.start.compile_cache import DIRECTORIES, Compilations, CompileCache, cache_key, gpu_facts
from handler.volume.path import VolumePath

INDUCTOR, VLLM = "inductor/ab/kernel.so", "vllm/torch_compile_cache/hash/graph.py"


def compiled(local: Path, *names: str, text: str = "code") -> None:
    for name in names:
        path = local / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_what_one_start_compiled_the_next_one_finds(tmp_path: Path) -> None:
    first = CompileCache(VolumePath(tmp_path / "volume") / "key.tar", tmp_path / "disk-1")
    assert first.restore() == 0
    compiled(first.local, INDUCTOR, VLLM, "vllm/modelinfos/other.json")
    assert first.publish(0)
    second = CompileCache(first.archive, tmp_path / "disk-2")
    assert second.restore() == 2
    found = sorted(str(path.relative_to(second.local)) for path in second.local.rglob("*") if path.is_file())
    assert found == [INDUCTOR, VLLM]
    assert not second.publish(2), "nothing is new"
    assert [path.name for path in first.archive.parent.path.iterdir()] == ["key.tar"]


def test_a_broken_archive_counts_as_none_and_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = CompileCache(VolumePath(tmp_path) / "key.tar", tmp_path / "disk")
    compiled(cache.local, INDUCTOR)
    assert cache.publish(0)
    whole = cache.archive.path.read_bytes()
    cache.archive.path.write_bytes(whole[:600])
    with caplog.at_level("WARNING"):
        assert CompileCache(cache.archive, tmp_path / "other").restore() == 0
    assert "compiling again" in caplog.text
    assert cache.publish(0)
    assert CompileCache(cache.archive, tmp_path / "third").restore() == 1


def test_an_archive_cannot_write_outside_its_directory(tmp_path: Path) -> None:
    import tarfile

    (tmp_path / "evil").write_text("x")
    with tarfile.open(tmp_path / "key.tar", "w") as archive:
        archive.add(tmp_path / "evil", "../escaped")
    assert CompileCache(VolumePath(tmp_path) / "key.tar", tmp_path / "disk" / "here").restore() == 0
    assert not (tmp_path / "disk" / "escaped").exists()


def test_a_volume_that_cannot_be_written_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    cache = CompileCache(VolumePath(tmp_path) / "file" / "key.tar", tmp_path / "disk")
    compiled(cache.local, INDUCTOR)
    with caplog.at_level("WARNING"):
        assert not cache.publish(0)
    assert "cannot be kept" in caplog.text


def _publish_often(volume: Path, local: Path, text: str) -> None:
    cache = CompileCache(VolumePath(volume) / "key.tar", local)
    compiled(local, *(f"inductor/{number}" for number in range(50)), text=text)
    for _ in range(30):
        assert cache.publish(0)


def test_readers_see_a_whole_archive_while_several_workers_write(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    volume = tmp_path / "volume"
    writers = [
        context.Process(target=_publish_often, args=(volume, tmp_path / name, name * 1000)) for name in ("a", "b", "c")
    ]
    for writer in writers:
        writer.start()
    seen = 0
    while any(writer.is_alive() for writer in writers):
        local = tmp_path / f"reader-{seen}"
        if CompileCache(VolumePath(volume) / "key.tar", local).restore():
            seen += 1
            assert len({path.read_text() for path in local.rglob("*") if path.is_file()}) == 1, "of one writer"
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert seen > 0
    assert [path.name for path in volume.iterdir()] == ["key.tar"]


def test_a_second_start_of_the_same_configuration_finds_the_first_ones_work(tmp_path: Path) -> None:
    told: dict[str, str] = {}
    first = Compilations(tmp_path / "volume", tmp_path / "disk-1", told.update)
    first.restore("config-a")
    assert set(told) == set(DIRECTORIES)
    inductor = Path(told["TORCHINDUCTOR_CACHE_DIR"])
    assert inductor.is_relative_to(tmp_path / "disk-1")
    compiled(inductor, "kernel.so")
    first.keep()
    second, other = (Compilations(tmp_path / "volume", tmp_path / disk, told.update) for disk in ("disk-2", "disk-3"))
    second.restore("config-a")
    other.restore("config-b")
    assert [path.name for path in (tmp_path / "disk-2").rglob("*.so")] == ["kernel.so"]
    assert list((tmp_path / "disk-3").iterdir()) == []


def test_without_a_volume_nothing_is_done(tmp_path: Path) -> None:
    compilations = Compilations(None, tmp_path / "disk")
    compilations.restore("config")
    compilations.keep()
    assert list(tmp_path.iterdir()) == []


def test_the_key_depends_on_every_fact(tmp_path: Path) -> None:
    facts = {"vllm": "0.32.0", "config": "abc", "gpus": "H100", "driver": "570"}
    keys = {cache_key(facts)} | {cache_key(facts | {name: "other"}) for name in facts}
    assert len(keys) == 5
    assert cache_key(facts).startswith("vllm-0.32.0-")


def test_the_gpus_are_read_without_opening_cuda(tmp_path: Path) -> None:
    assert gpu_facts(tmp_path / "none") == {}
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.1\nGCC\n")
    for number in ("0000:01:00.0", "0000:02:00.0"):
        report = tmp_path / "gpus" / number / "information"
        report.parent.mkdir(parents=True)
        report.write_text("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ: 1\n")
    facts = gpu_facts(tmp_path)
    assert facts["gpus"] == "NVIDIA H100 80GB HBM3, NVIDIA H100 80GB HBM3"
    assert "570.1" in facts["driver"]
