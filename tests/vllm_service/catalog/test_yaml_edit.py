"""providers.yaml gets its entry, and keeps every other character; what is not certain is refused."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from vllm_service.catalog.yaml_edit import Entry, entry_lines, with_provider, write_provider
from vllm_service.data import Kind, shipped
from vllm_service.errors import ConfigurationError

ENTRY: Entry = {
    "endpoint_id": "ep2",
    "usd_per_second": Decimal("0.00031"),
    "as_of": "2026-11-29",
    "expected": {"max_workers": 3, "cold_start_seconds": Decimal("41.5")},
}
BLOCK = """\
  own:
    endpoint_id: ep2
    usd_per_second: 0.00031
    as_of: 2026-11-29
    expected:
      max_workers: 3
      cold_start_seconds: 41.5
"""
HOSTED = """\
# Ours.
providers:   # all of them

  openai:
    preset: openai      # hosted
    api_key_env: OPENAI_API_KEY
"""

ENDED = HOSTED + "    # region: eu\n"
FLOW, TEXT, LIST = "  a: {preset: openai}\n", "  a:\n    preset: |\n      x\n", "  a:\n    tags:\n    - x # one\n"
COUNTED = "providers:\n  own:\n    endpoint_id: ep2\n    expected:\n      max_workers: 3\n"
EMPTY = BLOCK.replace("usd_per_second: 0.00031", "usd_per_second:")
#: Name, the file before, the file after.
EDITS = [
    ("no file", "", f"providers:\n{BLOCK}"),
    ("only comments", "# later\n", f"# later\nproviders:\n{BLOCK}"),
    ("only a comment, cut", "# later", f"# later\nproviders:\n{BLOCK}"),
    ("one provider", HOSTED, HOSTED + BLOCK),
    ("no last line's end", HOSTED.rstrip("\n"), HOSTED + BLOCK),
    ("a key behind", HOSTED + "\nother: 1\n", HOSTED + BLOCK + "\nother: 1\n"),
    ("a comment of the last provider", ENDED + "\n# end\n", ENDED + BLOCK + "\n# end\n"),
    ("a comment of the file", HOSTED + "# end\n", HOSTED + BLOCK + "# end\n"),
    ("a value in braces at the end", f"providers:\n{FLOW}", f"providers:\n{FLOW}{BLOCK}"),
    ("a text over lines at the end", f"providers:\n{TEXT}", f"providers:\n{TEXT}{BLOCK}"),
    ("a list at the end", f"providers:\n{LIST}", f"providers:\n{LIST}{BLOCK}"),
    (
        "four spaces",
        "providers:\n    a:\n        preset: openai\n",
        "providers:\n    a:\n        preset: openai\n" + "".join(f"  {line}\n" for line in BLOCK.splitlines()),
    ),
    ("lines that end with CR LF", HOSTED.replace("\n", "\r\n"), (HOSTED + BLOCK).replace("\n", "\r\n")),
    ("all of it is there", HOSTED + BLOCK, HOSTED + BLOCK),
    (
        "the endpoint is another, and has own keys and comments",
        "providers:\n  own:  # mine\n    endpoint_id: ep1  # old\n    region: eu\n    as_of: '2026-11-01'\n"
        "  b:\n    preset: openai\n",
        "providers:\n  own:  # mine\n    endpoint_id: ep2  # old\n    region: eu\n    as_of: 2026-11-29\n"
        "    usd_per_second: 0.00031\n    expected:\n      max_workers: 3\n      cold_start_seconds: 41.5\n"
        "  b:\n    preset: openai\n",
    ),
    (
        "a part of the expectations is there",
        f"providers:\n{BLOCK.replace('      cold_start_seconds: 41.5', '      slots: 7 # measured')}",
        f"providers:\n{BLOCK.replace('      cold_start', '      slots: 7 # measured' + chr(10) + '      cold_start')}",
    ),
    (
        "both mappings end at one place",
        f"{COUNTED}# end\n",
        f"{COUNTED}      cold_start_seconds: 41.5\n"
        "    usd_per_second: 0.00031\n    as_of: 2026-11-29\n# end\n",
    ),
    ("a key without a value", f"providers:\n{EMPTY}", f"providers:\n{BLOCK}"),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after"), [edit[1:] for edit in EDITS], ids=[edit[0] for edit in EDITS])
def test_the_entry_is_put_in_and_the_rest_stays(before: str, after: str) -> None:
    assert with_provider(before, "own", ENTRY) == after
    assert with_provider(after, "own", ENTRY) == after


REFUSED = [
    ("not YAML", "providers: [", "not valid YAML in line 1"),
    ("a list", "- a\n", "does not hold keys and values"),
    ("no providers", "other: 1\n", "has no key `providers`"),
    ("providers in braces", "providers: {a: {preset: openai}}\n", "providers in line 1"),
    ("no provider yet", "providers:\n", "providers in line 1"),
    ("the entry in braces", "providers:\n  own: {endpoint_id: ep1}\n", "own in line 2"),
    ("a hosted one of this name", "providers:\n  own:\n    preset: openai\n", "another kind of provider"),
    ("a list for a value", "providers:\n  own:\n    endpoint_id: [a]\n", "line 3 does not hold one value"),
    ("an anchor", "providers:\n  a: &x\n    endpoint_id: ep1\n  own: *x\n", "more than this entry"),
    ("the key twice", "providers:\n  own:\n    endpoint_id: a\n    endpoint_id: b\n", "endpoint_id is there twice"),
    ("a mapping for a key", "providers:\n  {a: b}: c\n", "a key of it is no text"),
    ("two documents", "providers:\n  a:\n    preset: openai\n---\nb: 1\n", "not valid YAML"),
    ("braces within", "providers:\n  own:\n    endpoint_id: a\n    expected: {slots: 1}\n", "expected in line 4"),
]  # fmt: skip


@pytest.mark.parametrize(("before", "reason"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_is_not_certain_is_refused_with_the_entry_to_put_in(before: str, reason: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        with_provider(before, "own", ENTRY, where="my.yaml")
    assert reason in refused.value.message
    assert refused.value.message.startswith("my.yaml: not changed, because ")
    assert BLOCK.rstrip("\n") in refused.value.message


def test_texts_that_yaml_reads_as_something_else_are_quoted() -> None:
    lines = entry_lines("yes", {"a": "true", "b": "it's: #1", "c": "http://127.0.0.1:80/v2", "d": "12"})
    assert lines == ["'yes':", "  a: 'true'", "  b: 'it''s: #1'", "  c: http://127.0.0.1:80/v2", "  d: '12'"]


def test_a_text_that_would_break_the_file_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="not changed"):
        with_provider("", "own", {"endpoint_id": "a\nother: b"})


def test_the_shipped_example_takes_an_entry_and_keeps_its_lines() -> None:
    before = shipped(Kind.EXAMPLE)["providers"].read_text(encoding="utf-8")
    after = with_provider(before, "brand-new", ENTRY)
    added = [line for line in after.splitlines() if line not in before.splitlines()]
    assert "  brand-new:" in added
    lines = iter(after.splitlines())
    assert all(line in lines for line in before.splitlines())


def test_the_file_is_replaced_in_one_step_and_keeps_its_mode(tmp_path: Path) -> None:
    real, link = tmp_path / "real.yaml", tmp_path / "providers.yaml"
    real.write_text(HOSTED)
    real.chmod(0o600)
    link.symlink_to(real)
    assert write_provider(link, "own", ENTRY)
    assert not write_provider(link, "own", ENTRY)
    assert link.is_symlink()
    assert real.read_text() == HOSTED + BLOCK
    assert real.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["providers.yaml", "real.yaml"]


def test_a_file_that_is_refused_stays_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "providers.yaml"
    file.write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        write_provider(file, "own", ENTRY)
    assert file.read_bytes() == b"\xff"


def test_a_file_is_made_where_there_is_none(tmp_path: Path) -> None:
    assert write_provider(tmp_path / "providers.yaml", "own", ENTRY)
    assert (tmp_path / "providers.yaml").read_text() == f"providers:\n{BLOCK}"
