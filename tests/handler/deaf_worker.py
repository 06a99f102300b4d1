"""A queue worker whose engine swallows the SIGTERM that comes while it loads, as code that is being imported may.

Run as `python -m tests.handler.deaf_worker comes-up|fails`; says "took" should it ask for jobs.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, cast

from handler.queue_mode import serve
from handler.runpod_sdk import SdkPlatform
from handler.settings import WorkerSettings
from tests.handler.fake_platform import FakePlatform
from tests.support import FakeEngine


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


class DeafEngine(FakeEngine):
    async def start(self) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            await super().start()
        except SystemExit:
            say("swallowed")
            if sys.argv[1] == "fails":
                raise ImportError("interrupted") from None


class Overheard(FakePlatform):
    async def __aenter__(self) -> Overheard:
        return self

    async def __aexit__(self, *error: object) -> None: ...

    async def take(self, count: int) -> list[dict[str, Any]]:
        say("took")
        return await super().take(count)


if __name__ == "__main__":
    settings = WorkerSettings(environment={})
    sys.exit(serve(DeafEngine(), settings, make_platform=lambda metrics: cast("SdkPlatform", Overheard())))
