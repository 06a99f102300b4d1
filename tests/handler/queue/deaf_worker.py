"""A queue worker that is told to stop at a bad moment while its engine loads; says "took" should it ask for jobs.

Run as `python -m tests.handler.queue.deaf_worker comes-up|fails|writes|unread`: the engine swallows the SIGTERM, as
code that is being imported may, and comes up or fails; or the SIGTERM comes in the middle of a line of the log; or it
comes to a worker that serves, and whose stderr is full.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
from contextlib import redirect_stderr
from typing import Any, cast

from handler import logs
from handler.queue.mode import serve
from handler.queue.runpod_sdk import SdkPlatform
from handler.settings import WorkerSettings
from tests.handler.queue.fake_platform import FakePlatform
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


class InterruptedWrite(io.RawIOBase):
    """The file behind a stderr: the signal arrives when the first bytes have left."""

    told = False

    def writable(self) -> bool:
        return True

    def write(self, data: object, /) -> int:
        if not self.told:
            self.told = True
            signal.raise_signal(signal.SIGTERM)
        return memoryview(data).nbytes  # type: ignore[arg-type]


class WritingEngine(FakeEngine):
    async def start(self) -> None:
        logging.getLogger("handler").info("importing vLLM ...")
        await super().start()


class TalkingEngine(FakeEngine):
    async def start(self) -> None:
        logging.getLogger("handler").info("a line that waits")
        sys.stderr.write("and another\n")
        await super().start()


class Overheard(FakePlatform):
    async def __aenter__(self) -> Overheard:
        return self

    async def __aexit__(self, *error: object) -> None: ...

    async def take(self, count: int) -> list[dict[str, Any]]:
        say("took")
        return await super().take(count)


def work(engine: FakeEngine) -> int:
    settings = WorkerSettings(environment={})
    return serve(engine, settings, make_platform=lambda metrics: cast("SdkPlatform", Overheard()))


def work_while_a_line_is_written() -> int:
    stream = io.TextIOWrapper(io.BufferedWriter(InterruptedWrite()), line_buffering=True)
    with redirect_stderr(stream):
        logs.set_up("INFO", as_json=False)
        return work(WritingEngine())


def work_without_a_reader() -> int:
    logs.set_up("INFO", as_json=False)
    return work(TalkingEngine())


WAYS = {"writes": work_while_a_line_is_written, "unread": work_without_a_reader}

if __name__ == "__main__":
    sys.exit(WAYS[sys.argv[1]]() if sys.argv[1] in WAYS else work(DeafEngine()))
