"""The canary helper finds what it is meant to find; otherwise tests that use it could not fail."""

from __future__ import annotations

import base64
import logging
import subprocess
import sys
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vllm_service.canary import Canaries, contents, everything_logged, process_list


@pytest.mark.parametrize(
    "disguise",
    [
        lambda value: f"before {value} after",
        lambda value: f"...{value[:22]}...",
        urllib.parse.quote,
        urllib.parse.quote_plus,
        lambda value: base64.b64encode(f"Bearer {value}".encode()).decode(),
        lambda value: base64.b64encode(f"user:{value} ".encode()).decode(),
    ],
)
def test_a_canary_is_found_in_each_of_its_forms(disguise: Callable[[str], str]) -> None:
    canaries = Canaries()
    assert canaries.found_in("nothing", disguise(canaries.key)) == ["key"]
    assert canaries.found_in(disguise(canaries.prompt).encode()) == ["prompt"]
    assert canaries.found_in("nothing") == []


def test_no_output_at_all_is_no_proof() -> None:
    with pytest.raises(AssertionError, match="no output"):
        Canaries().assert_unseen("", b"")


def test_logs_are_kept_with_their_tracebacks() -> None:
    canaries = Canaries()
    with everything_logged() as lines:
        try:
            int(canaries.prompt)
        except ValueError:
            logging.getLogger("some.library").debug("failed", exc_info=True)
    assert canaries.found_in(*lines) == ["prompt"]


def test_a_command_line_is_seen_by_everybody() -> None:
    canaries = Canaries()
    waiting = [sys.executable, "-c", "print(flush=True); input()", canaries.provider_key]
    with subprocess.Popen(waiting, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        assert canaries.found_in(process_list()) == ["provider_key"]
        process.communicate(b"\n")


def test_files_are_searched_below_a_folder(tmp_path: Path) -> None:
    canaries = Canaries()
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "ledger.sqlite").write_bytes(b"\0" + canaries.key.encode())
    assert canaries.found_in(*contents([tmp_path])) == ["key"]
