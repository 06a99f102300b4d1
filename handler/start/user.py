"""Gives up root for the user that the image has made, where that user can do what the worker has to.

RunPod starts containers as the image says, and documents no owner of what it mounts: on a volume that belongs to root
alone the user could keep nothing, and would download the model at every cold start. So it is tried, once, in a child.
"""

from __future__ import annotations

import logging
import os
import pwd
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from handler.settings import export

logger = logging.getLogger(__name__)

UNPRIVILEGED_PORTS = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


def give_up_root(name: str | None, directories: Iterable[Path], ports: Iterable[int] = ()) -> None:
    """Becomes the user where everything is possible for it; else logs why this process stays root.

    Must run before any thread. directories: what must be writable, or could be made. ports: what must be bound.
    """
    if not name or os.geteuid() != 0:
        return
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        logger.warning("running as root: there is no user %s", name)
        return
    low = [port for port in ports if 0 < port < _first_port()]
    closed = _closed_to(user, [_nearest(directory) for directory in directories])
    if closed or low:
        what = f"write to {', '.join(map(str, closed))}" if closed else f"listen on port {low[0]}"
        logger.warning("running as root: the user %s cannot %s", name, what)
        return
    _become(user)
    export({"HOME": user.pw_dir, "USER": name}, overwrite=True)
    logger.info("running as %s (uid %d)", name, user.pw_uid)


def _nearest(directory: Path) -> Path:
    """Returns the directory, or the one that is there and that it would be made in."""
    return next((path for path in (directory, *directory.parents) if path.exists()), Path("/"))


def _closed_to(user: pwd.struct_passwd, directories: Sequence[Path]) -> list[Path]:
    """Returns the directories that the user cannot write to."""
    return [directory for directory in dict.fromkeys(directories) if not _as_user(user, partial(_is_open, directory))]


def _is_open(directory: Path) -> bool:
    return os.access(directory, os.W_OK | os.X_OK, effective_ids=True)


def _as_user(user: pwd.struct_passwd, check: Callable[[], bool]) -> bool:
    """Returns what a check finds in a child that has become the user."""
    child = os.fork()
    if child == 0:
        try:
            _become(user)
            os._exit(0 if check() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _become(user: pwd.struct_passwd) -> None:
    os.initgroups(user.pw_name, user.pw_gid)
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)


def _first_port() -> int:
    try:
        return int(UNPRIVILEGED_PORTS.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 1024
