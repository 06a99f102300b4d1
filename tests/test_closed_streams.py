"""No program of the three gives the number of a closed standard stream to a socket or a file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = ("vllm_service.cli.closed_streams", "handler.line_writer", "runpod_emulator.line_writer")
PROGRAM = """
import os, sys
from {module} import open_closed_streams
open_closed_streams()
print("out")
print("error", file=sys.stderr)
open(sys.argv[1], "w").write(" ".join(os.readlink(f"/proc/self/fd/{{number}}") for number in range(3)))
"""


@pytest.mark.parametrize("module", MODULES)
def test_closed_streams_lead_to_the_null_device(module: str, tmp_path: Path) -> None:
    found = tmp_path / "found"
    command = [
        "sh",
        "-c",
        'exec "$0" -c "$1" "$2" <&- >&- 2>&-',
        sys.executable,
        PROGRAM.format(module=module),
        str(found),
    ]
    subprocess.run(command, cwd=ROOT, check=True)
    assert found.read_text() == "/dev/null /dev/null /dev/null"


@pytest.mark.parametrize("module", MODULES)
def test_open_streams_stay(module: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM.format(module=module), str(tmp_path / "found")]
    finished = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert (finished.stdout, finished.stderr) == ("out\n", "error\n")
