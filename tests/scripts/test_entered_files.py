"""The count of entered files: pure rules as a table, and the whole script on this tree."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.worker_stack import environment
from scripts.entered_files.counting import BARS, Call, Last, LastCallMissing, walk_of

ROOT = Path(__file__).resolve().parents[2]
TRACED = ROOT / "scripts" / "entered_files" / "traced.py"
ROW = Last("record", in_path="ledger")
CALLS = [
    Call(1, "a.py", "read"),
    Call(2, "a.py", "Reader.feed"),
    Call(3, "b.py", "serve"),
    Call(4, "a.py", "read"),
    Call(5, "storage/ledger/writer.py", "Writer.record"),
    Call(6, "c.py", "record"),
]


def test_a_walk_ends_with_its_last_call() -> None:
    walk = walk_of(CALLS, [(0, 10)], ROW)
    assert walk.files == {
        "a.py": ["read", "Reader.feed"],
        "b.py": ["serve"],
        "storage/ledger/writer.py": ["Writer.record"],
    }
    assert (walk.functions, walk.changes) == (4, 3)


def test_calls_outside_of_the_window_do_not_count() -> None:
    assert list(walk_of(CALLS, [(2, 3)], None).files) == ["a.py", "b.py"]


def test_the_window_with_the_fewest_files_and_then_calls_counts() -> None:
    assert list(walk_of(reversed(CALLS), [(1, 6), (3, 4), (1, 4)], None).files) == ["b.py", "a.py"]
    assert walk_of(CALLS, [(3, 4), (1, 2), (1, 1)], None).functions == 1


def test_a_walk_without_its_last_call_is_an_error_that_names_it() -> None:
    with pytest.raises(LastCallMissing, match=r"none of 4 calls was record\(\) in a file whose path contains 'ledger'"):
        walk_of(CALLS, [(1, 4)], ROW)


def test_a_function_is_entered_when_its_body_begins_and_not_when_it_goes_on(tmp_path: Path) -> None:
    """Holds for coroutines, generators and other threads; a generated method is not in the file."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "work.py").write_text(
        "import asyncio, dataclasses, threading\n"
        "@dataclasses.dataclass\n"
        "class Point:\n    x: int\n"
        "async def wait():\n    await asyncio.sleep(0)\n    await asyncio.sleep(0)\n"
        "async def never():\n    pass\n"
        "def numbers():\n    yield 1\n    yield 2\n"
        "def in_thread():\n    list(numbers())\n"
        "def main():\n"
        "    Point(1)\n    never().close()\n    asyncio.run(wait())\n"
        "    thread = threading.Thread(target=in_thread)\n    thread.start()\n    thread.join()\n"
    )
    (tmp_path / "program.py").write_text("from package.work import main\nmain()\n")
    written = tmp_path / "calls.json"
    command = [sys.executable, str(TRACED), str(package), str(written), "program.py"]
    subprocess.run(command, cwd=tmp_path, check=True)
    calls = [function for *_, function in json.loads(written.read_text()) if function != "<module>"]
    assert calls == ["Point", "main", "wait", "in_thread", "numbers"]  # Point: its class statement, at import


def test_all_three_ways_are_walked_on_this_tree() -> None:
    command = [sys.executable, "-m", "scripts.entered_files", "--json"]
    ended = subprocess.run(command, cwd=ROOT, env=environment({}), capture_output=True, text=True, check=True)
    walks = json.loads(ended.stdout)["tree"]
    assert set(BARS) < set(walks)
    for name in BARS:
        walk = walks[name]
        package = ROOT / ("handler" if name == "worker" else "vllm_service")
        assert [file for file in walk["entered"] if not (package / file).is_file()] == []
        assert 3 < walk["files"] == len(walk["entered"]) <= BARS[name], "the bar: a request enters no more files"
        assert walk["files"] <= walk["functions"] == sum(len(functions) for functions in walk["entered"].values())
        assert walk["changes"] >= walk["files"] - 1
        assert not any("<module>" in functions for functions in walk["entered"].values()), "something was imported"
