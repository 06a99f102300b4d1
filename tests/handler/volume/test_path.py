"""A path on a volume leads nowhere else, whatever was planted there, and whenever."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from handler.volume.opening import NotOurs, foreign
from handler.volume.path import VolumePath


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    directory = tmp_path / "outside"
    (directory / "inner").mkdir(parents=True)
    (directory / "secret").write_text("secret")
    return directory


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    (tmp_path / "volume").mkdir()
    return tmp_path / "volume"


WAYS_IN: dict[str, Callable[[VolumePath], object]] = {
    "make": lambda path: (path / "inner" / "made").make(),
    "create": lambda path: (path / "made").create(),
    "create_anew": lambda path: (path / "secret").create_anew(),
    "names": lambda path: path.names(),
    "open": lambda path: (path / "secret").open_file(),
    "unlink": lambda path: (path / "secret").unlink(),
    "rename": lambda path: (path / "secret").rename(path / "moved"),
    "link": lambda path: (path / "secret").hard_link(path / "second"),
}


@pytest.mark.parametrize("way", WAYS_IN)
def test_no_operation_goes_through_a_link_in_the_place_of_a_directory(way: str, volume: Path, outside: Path) -> None:
    (volume / "planted").symlink_to(outside)
    with pytest.raises(NotOurs, match="'planted' is a link"):
        WAYS_IN[way](VolumePath(volume) / "planted")
    assert sorted(path.name for path in outside.rglob("*")) == ["inner", "secret"]


def test_what_only_looks_finds_nothing_behind_a_link(volume: Path, outside: Path) -> None:
    (volume / "planted").symlink_to(outside)
    planted = VolumePath(volume) / "planted"
    assert (planted.is_dir(), planted.children(), list(planted.below())) == (False, [], [])
    assert ((planted / "secret").status(), (planted / "secret").size()) == (None, None)


def test_removing_a_link_leaves_what_it_leads_to(volume: Path, outside: Path) -> None:
    (volume / "tree").mkdir()
    (volume / "tree" / "to-a-directory").symlink_to(outside)
    (volume / "tree" / "to-a-file").symlink_to(outside / "secret")
    (volume / "planted").symlink_to(outside)
    for path in (VolumePath(volume) / "planted", VolumePath(volume) / "tree"):
        path.remove()
    assert list(volume.iterdir()) == []
    assert (outside / "secret").read_text() == "secret"


def fifo(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


def two_names(path: Path) -> None:
    path.write_text("x")
    path.with_name("other").hardlink_to(path)


def link(path: Path) -> None:
    path.with_name("other").write_text("x")
    path.symlink_to("other")


@pytest.mark.parametrize("plant", [fifo, unix_socket, two_names, link, Path.mkdir])
def test_only_a_plain_file_is_read_and_nothing_waits_for_a_writer(
    plant: Callable[[Path], object], volume: Path
) -> None:
    plant(volume / "file")
    file = VolumePath(volume) / "file"
    with pytest.raises(OSError, match=r"expected|hard links|No such device"):
        file.open_file()
    assert file.size() is None or plant is Path.mkdir
    assert not VolumePath(volume).has_only_files() or plant is Path.mkdir


def test_a_name_that_leads_out_is_refused(volume: Path) -> None:
    for name in ("../outside", "/etc/passwd", "a/../../outside", "a\0b"):
        with pytest.raises(ValueError, match="leads out"):
            VolumePath(volume) / name


def test_the_root_is_no_link_itself_and_links_above_it_are_this_machines_own(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "root").symlink_to(outside)
    with pytest.raises(NotOurs, match="'root' is a link: name the directory itself"):
        VolumePath(tmp_path / "root").names()
    assert VolumePath(tmp_path / "root" / "inner").names() == []
    tmp_path.chmod(0o777)
    with pytest.raises(NotOurs, match="'root' is a link"):
        VolumePath(tmp_path / "root" / "inner" / "made").make()
    assert list((outside / "inner").iterdir()) == []


def test_with_links_one_is_followed_inside_the_root_and_none_out_of_it(volume: Path, outside: Path) -> None:
    (volume / "blob").write_text("content")
    (volume / "inside").symlink_to("blob")
    (volume / "leading-out").symlink_to(outside / "secret")
    path = VolumePath(volume, links=True)
    assert (path / "inside").read(100) == b"content"
    assert ((path / "inside").size(), (path / "leading-out").size()) == (7, None)
    with pytest.raises(NotOurs, match="leads out of"):
        (path / "leading-out").read(100)
    assert not path.has_only_files()
    (volume / "leading-out").unlink()
    assert path.has_only_files()


def test_a_file_that_is_too_large_is_not_read_whole(volume: Path) -> None:
    (volume / "file").write_bytes(b"12345")
    assert (VolumePath(volume) / "file").read(5) == b"12345"
    with pytest.raises(NotOurs, match="more than 4 bytes"):
        (VolumePath(volume) / "file").read(4)


@pytest.mark.parametrize(
    ("user", "mode", "reason"),
    [
        (0, 0o755, None),
        (0, 0o700, None),
        (0, 0o775, "others may write to it (mode 775)"),
        (0, 0o757, "others may write to it (mode 757)"),
        (os.geteuid() + 1, 0o755, f"it belongs to user {os.geteuid() + 1}"),
    ],
)
def test_what_others_may_write_is_foreign(user: int, mode: int, reason: str | None) -> None:
    found = os.stat_result((stat.S_IFDIR | mode, 1, 1, 1, user, 0, 0, 0, 0, 0))
    assert foreign(found) == reason


def planted_depth(directory: Path, depth: int) -> None:
    """Makes directories inside one another, more than a path can name, with a file in the last one."""
    inside = os.open(directory, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("a", dir_fd=inside)
        deeper = os.open("a", os.O_RDONLY, dir_fd=inside)
        os.close(inside)
        inside = deeper
    os.close(os.open("last", os.O_CREAT | os.O_WRONLY, dir_fd=inside))
    os.close(inside)


def test_directories_without_an_end_inside_one_another_are_no_model_and_are_removed(volume: Path) -> None:
    planted = VolumePath(volume) / "planted"
    planted.make()
    planted_depth(planted.path, 3_000)
    assert not planted.has_only_files()
    assert planted.size_on_disk() < 10_000
    planted.remove()
    assert list(volume.iterdir()) == []


def test_what_is_below_is_found_and_removed_with_links_and_not_what_they_lead_to(volume: Path, outside: Path) -> None:
    tree = VolumePath(volume) / "tree"
    (tree / "a/b").make()
    (tree.path / "a/b/file").write_text("12345")
    (tree.path / "a/link").symlink_to(outside)
    assert sorted(str(path.path.relative_to(tree.path)) for path, _ in tree.below()) == ["a/b/file", "a/link"]
    assert not tree.has_only_files()
    tree.remove()
    assert tree.status() is None
    assert (outside / "secret").read_text() == "secret"
