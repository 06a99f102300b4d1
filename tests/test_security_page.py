"""Every bound of docs/security.md is shown by a test that is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"(test_\w+\.py)(?:::(test_\w+))?", PAGE)))
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| threat")]


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_test_that_the_page_names_is_there(file: str, name: str) -> None:
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob(file)]
    assert texts, "no such file"
    assert any(f"def {name}" in text for text in texts), "no such test"


@pytest.mark.parametrize("row", ROWS)
def test_every_threat_has_a_bound_and_a_test(row: str) -> None:
    threat, bound, shown_by = (cell.strip() for cell in row.strip("|").split("|"))
    assert threat
    assert bound
    assert re.match(r"test_\w+\.py", shown_by)
