"""A worker that is started as root becomes the image's user where that user can do all that is needed."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from handler.settings import WorkerSettings

ROOT = Path(__file__).resolve().parents[3]
USER = "nobody"
SCRIPT = """
import logging, os, sys
from pathlib import Path
from handler.start.user import give_up_root
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
give_up_root(sys.argv[1], [Path(path) for path in sys.argv[3:]], [int(sys.argv[2])])
print(os.geteuid(), os.getegid(), os.getgroups(), os.environ["HOME"])
"""


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A directory on a way that everybody may walk."""
    closed = [path for path in tmp_path.parents if path.stat().st_uid == os.geteuid() and path.stat().st_mode & 1 == 0]
    for path in (*closed, tmp_path):
        path.chmod(0o755)
    (tmp_path / "volume").mkdir()
    yield tmp_path / "volume"
    for path in closed:
        path.chmod(0o700)


def started(user: str, port: int, *directories: Path) -> list[str]:
    command = [sys.executable, "-c", SCRIPT, user, str(port), *map(str, directories)]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()


def test_the_user_is_taken_where_it_can_write(volume: Path) -> None:
    os.chown(volume, pwd.getpwnam(USER).pw_uid, -1)
    said, ids = started(USER, 8000, volume, volume / "model-cache" / "deeper")
    user = pwd.getpwnam(USER)
    assert said == f"running as {USER} (uid {user.pw_uid})"
    assert ids == f"{user.pw_uid} {user.pw_gid} [{user.pw_gid}] {user.pw_dir}"


def test_on_a_volume_of_root_it_stays_root_and_says_why(volume: Path) -> None:
    said, ids = started(USER, 8000, volume / "model-cache")
    assert said == f"running as root: the user {USER} cannot write to {volume}"
    assert ids.startswith("0 ")


def test_a_user_that_is_not_there_changes_nothing(volume: Path) -> None:
    said, ids = started("no-such-user", 8000, volume)
    assert said == "running as root: there is no user no-such-user"
    assert ids.startswith("0 ")


def test_only_the_image_names_a_user_and_what_is_kept_must_be_writable() -> None:
    assert WorkerSettings(environment={}).user is None
    settings = WorkerSettings.from_environment(
        {"WORKER_USER": "worker", "MODEL_CACHE_DIR": "/v/m", "COMPILE_CACHE_DIR": "/v/c", "HF_HOME": "/v/h"}
    )
    assert settings.user == "worker"
    assert settings.written_directories == (Path("/v/m"), Path("/v/c"), Path("/v/h"))
