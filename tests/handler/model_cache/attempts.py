"""One attempt at a download without the rest, for tests of its parts."""

from __future__ import annotations

import threading
from pathlib import Path

from handler.model_cache.download import Download
from handler.model_cache.hub import Hub, Revision
from handler.model_cache.layout import RepositoryDirectory
from handler.model_cache.progress import Meter
from handler.model_cache.staging import Staging
from tests.handler.model_cache.support import PATIENCE


def attempt(root: Path, hub: Hub, revision: Revision) -> Download:
    """An attempt in its own staging directory."""
    directory = RepositoryDirectory.of(root, revision.repository)
    staging = Staging.open(directory, revision.name, revision.commit, "one")
    return Download(hub, revision, staging, Meter(revision.repository, 0), threading.Event(), PATIENCE)
