"""The table of groups names files that are there, and puts what shares something dear together."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.groups import EARLY, GROUPS, group_of, rank_of

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("path", [*(path for members in GROUPS.values() for path in members), *EARLY])
def test_what_the_table_names_is_there(path: str) -> None:
    assert (ROOT / path).exists()


def test_a_file_outside_the_table_is_a_group_of_its_own() -> None:
    assert group_of("tests/wheel/test_contents.py::test_a") == group_of("tests/wheel/test_commands.py::test_b")
    assert group_of("tests/e2e/test_http_mode.py::test_a[b]") == "tests/e2e/test_http_mode.py"


def test_the_longest_groups_begin_first_and_all_tests_of_a_group_follow_one_another() -> None:
    ids = ["tests/test_groups.py::a", "tests/wheel/test_contents.py::b", "tests/e2e/test_chaos.py::c",
           "tests/e2e/test_http_mode.py::d", "tests/contract/test_openai_types.py::e"]  # fmt: skip
    assert sorted(ids, key=rank_of) == [ids[4], ids[2], ids[1], ids[3], ids[0]]
