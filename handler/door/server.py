"""uvicorn, as the worker runs it: on sockets that are open already, ended by the worker's own signal handlers."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any

import uvicorn

from handler.door.flags import Tls
from handler.door.guard import App


class Server(uvicorn.Server):
    """uvicorn without its own handling of signals."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        """Leaves the signals as they are."""
        return nullcontext()

    def end(self) -> None:
        """Lets running requests finish and takes no new ones; `serve` returns after that."""
        self.should_exit = True


def server(app: App, tls: Tls, **options: Any) -> Server:
    """Returns a server for the app; `options` are those of `uvicorn.Config`."""
    return Server(uvicorn.Config(app, lifespan="off", ws="none", **asdict(tls), **options))
