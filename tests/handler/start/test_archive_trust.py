"""Compiled code on a volume is run only where it is certain that it is ours."""

from __future__ import annotations

import io
import os
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from handler.start.archive_trust import SIGNATURE_BYTES, ArchiveTrust
from handler.start.compile_cache import DIRECTORIES, Compilations, CompileCache
from handler.volume.path import VolumePath
from tests.handler.start.test_compile_cache import INDUCTOR, compiled

SECRET = ArchiveTrust("a secret of all our workers")


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    return tmp_path / "volume"


def kept(volume: Path, tmp_path: Path, trust: ArchiveTrust | None = None) -> CompileCache:
    """An archive as a worker keeps it."""
    cache = CompileCache(VolumePath(volume) / "key.tar", tmp_path / "disk", trust or ArchiveTrust())
    compiled(cache.local, INDUCTOR)
    assert cache.publish(0)
    return cache


def restored(volume: Path, tmp_path: Path, trust: ArchiveTrust | None = None, name: str = "key.tar") -> int:
    local = tmp_path / f"reader-{len(list(tmp_path.iterdir()))}"
    found = CompileCache(VolumePath(volume) / name, local, trust or ArchiveTrust()).restore()
    assert found or not local.exists()
    return found


def writable_file(archive: Path) -> None:
    archive.chmod(0o666)


def writable_directory(archive: Path) -> None:
    archive.parent.chmod(0o777)


def foreign_file(archive: Path) -> None:
    os.chown(archive, 12345, 12345)


def foreign_directory(archive: Path) -> None:
    os.chown(archive.parent, 12345, 12345)


@pytest.mark.parametrize("harm", [writable_file, writable_directory, foreign_file, foreign_directory])
def test_what_somebody_else_may_have_written_is_not_run(
    volume: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: Callable[[Path], None]
) -> None:
    archive = kept(volume, tmp_path).archive.path
    assert restored(volume, tmp_path) == 1
    harm(archive)
    assert restored(volume, tmp_path) == 0
    assert "what is in it would be run. Set COMPILE_CACHE_SECRET" in caplog.text
    assert restored(volume, tmp_path, ArchiveTrust(everything=True)) == 1


@pytest.mark.parametrize("harm", [writable_file, writable_directory, foreign_file, foreign_directory])
def test_with_a_secret_a_signed_archive_is_run_whoever_owns_the_file(
    volume: Path, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    harm(kept(volume, tmp_path, SECRET).archive.path)
    assert restored(volume, tmp_path, SECRET) == 1


def flipped(content: bytes) -> bytes:
    return content[:700] + bytes([content[700] ^ 1]) + content[701:]


TAMPERED: dict[str, Callable[[bytes], bytes]] = {
    "flipped": flipped,
    "cut": lambda content: content[:-1],
    "signature gone": lambda content: content[:-SIGNATURE_BYTES],
    "something in front": lambda content: evil() + content,
    "something behind": lambda content: content + evil(),
    "another signature": lambda content: evil() + content[-SIGNATURE_BYTES:],
    "nothing but a signature": lambda content: content[-SIGNATURE_BYTES:],
    "empty": lambda content: b"",
}


def evil() -> bytes:
    """An archive of somebody else."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo(INDUCTOR)
        member.size = 4
        archive.addfile(member, io.BytesIO(b"evil"))
    return buffer.getvalue()


@pytest.mark.parametrize("change", TAMPERED.values(), ids=list(TAMPERED))
def test_a_secret_makes_every_changed_archive_useless(
    volume: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, change: Callable[[bytes], bytes]
) -> None:
    archive = kept(volume, tmp_path, SECRET).archive.path
    archive.write_bytes(change(archive.read_bytes()))
    assert restored(volume, tmp_path, SECRET) == 0
    assert "not signed with this worker's COMPILE_CACHE_SECRET" in caplog.text
    assert "a secret of all" not in caplog.text


def test_an_archive_of_another_key_or_secret_or_without_one_is_not_taken(volume: Path, tmp_path: Path) -> None:
    archive = kept(volume, tmp_path, SECRET).archive.path
    assert restored(volume, tmp_path, ArchiveTrust("another")) == 0
    archive.rename(archive.with_name("other.tar"))
    assert restored(volume, tmp_path, SECRET, "other.tar") == 0
    kept(volume, tmp_path)
    assert restored(volume, tmp_path, SECRET) == 0


def test_a_planted_link_fifo_or_hard_link_is_no_archive_and_is_not_written_through(
    volume: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    kept(outside, tmp_path)
    volume.mkdir()
    plants: tuple[Callable[[Path], object], ...] = (
        lambda path: path.symlink_to(outside / "key.tar"),
        os.mkfifo,
        lambda path: path.hardlink_to(outside / "key.tar"),
    )
    before = (outside / "key.tar").read_bytes()
    for plant in plants:
        plant(volume / "key.tar")
        assert restored(volume, tmp_path) == 0
        kept(volume, tmp_path)
        assert restored(volume, tmp_path) == 1
        (volume / "key.tar").unlink()
    assert (outside / "key.tar").read_bytes() == before
    volume.rmdir()
    volume.symlink_to(outside)
    assert restored(volume, tmp_path) == 0


def test_an_archive_that_is_changed_while_it_is_read_is_judged_as_it_was_copied(volume: Path, tmp_path: Path) -> None:
    """The copy is made before it is judged, so what is unpacked is what was signed."""
    archive = kept(volume, tmp_path, SECRET).archive.path
    whole, ended = archive.read_bytes(), threading.Event()

    def scribble() -> None:
        while not ended.is_set():
            archive.write_bytes(flipped(whole))
            archive.write_bytes(whole)

    thread = threading.Thread(target=scribble)
    thread.start()
    try:
        for number in range(100):
            local = tmp_path / f"scribbled-{number}"
            if CompileCache(VolumePath(volume) / "key.tar", local, SECRET).restore():
                assert (local / INDUCTOR).read_text() == "code"
    finally:
        ended.set()
        thread.join()


def test_a_directory_for_code_that_others_may_write_to_is_not_used(tmp_path: Path) -> None:
    told: dict[str, str] = {}
    local_root = tmp_path / "vllm-worker-compile-cache"
    local_root.mkdir()
    local_root.chmod(0o777)
    Compilations(tmp_path / "volume", local_root, told.update).restore("config")
    assert set(told) == set(DIRECTORIES)
    assert not [path for path in told.values() if path.startswith(f"{local_root}/")]


def test_without_a_kept_cache_compilers_do_not_look_on_a_volume_either(tmp_path: Path) -> None:
    told: dict[str, str] = {}
    Compilations(None, tmp_path / "disk", told.update, shared_libraries=True).restore("config")
    assert Path(told["VLLM_CACHE_ROOT"]).is_relative_to(tmp_path / "disk")
