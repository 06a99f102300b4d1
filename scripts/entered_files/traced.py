"""Runs a Python program and records every call of a function of one package: its name, time and thread.

`python traced.py PACKAGE_DIRECTORY OUTPUT.json -m MODULE ARGUMENTS...`, or `... PROGRAM.py ARGUMENTS...`. It is started
by path in the checkout that is measured and imports nothing of any checkout: one file measures an old and a new tree.
"""

from __future__ import annotations

import dis
import inspect
import json
import os
import runpy
import sys
import threading
import time
from functools import cache
from pathlib import Path
from types import CodeType, FrameType

MAY_SUSPEND = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
RESUME = "RESUME"


class Recorder:
    """The profile function of every thread. A call is (nanoseconds of the monotonic clock, thread, file, function)."""

    def __init__(self, package: Path) -> None:
        self._root = f"{package}{os.sep}"
        self._calls: list[tuple[int, int, CodeType]] = []

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        """Is called by the interpreter at every call and return."""
        if event != "call":
            return
        code = frame.f_code
        if code.co_filename.startswith(self._root) and _has_just_begun(code, frame.f_lasti):
            self._calls.append((time.monotonic_ns(), threading.get_ident(), code))

    def write(self, path: Path) -> None:
        """Writes the recorded calls as JSON."""
        calls = [
            (when, thread, code.co_filename.removeprefix(self._root), code.co_qualname)
            for when, thread, code in self._calls
        ]
        path.write_text(json.dumps(calls))


def _has_just_begun(code: CodeType, at: int) -> bool:
    """Returns whether a function's body begins at this instruction."""
    # The interpreter also reports a coroutine at each resumption, and when it is closed.
    return not code.co_flags & MAY_SUSPEND or at == _first_resume(code)


@cache
def _first_resume(code: CodeType) -> int:
    return next(step.offset for step in dis.get_instructions(code) if step.opname == RESUME)


def main() -> None:
    """Runs the program as `python` would, in the current directory."""
    package, output, *program = sys.argv[1:]
    recorder = Recorder(Path(package).resolve())
    own_process = os.getpid()
    sys.path[0] = str(Path.cwd())
    threading.setprofile(recorder)
    sys.setprofile(recorder)
    try:
        if program[0] == "-m":
            sys.argv = program[1:]
            runpy.run_module(program[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = program
            runpy.run_path(program[0], run_name="__main__")
    finally:
        sys.setprofile(None)
        if os.getpid() == own_process:  # a forked process has its parent's calls, and ends here too
            recorder.write(Path(output))


if __name__ == "__main__":
    main()
