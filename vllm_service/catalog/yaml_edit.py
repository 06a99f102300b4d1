"""Puts one provider into the text of providers.yaml. Every other character of the file stays as it is.

The edit is made on the text, at the places that the parser names, and then proved: the new text has to parse to the old
document with exactly the wanted keys changed. What cannot be edited so is refused, with the entry to put in by hand.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from vllm_service.errors import ConfigurationError

Scalar = str | int | Decimal
Entry = Mapping[str, "Scalar | Mapping[str, Scalar]"]
_ROOT = "providers"
#: A text that YAML reads as itself without quotes. What YAML takes for a boolean or for nothing is quoted.
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*(?:://?[A-Za-z0-9_./:-]*[A-Za-z0-9_/-])?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})
_INDENT = 2


def write_provider(path: Path, name: str, entry: Entry) -> bool:
    """Puts the provider into the file, or makes the file; returns false if it held all of it already.

    The file is replaced in one step: a reader sees the old one or the new one. Raises ConfigurationError where the file
    cannot be edited safely, and OSError where it cannot be read or written.
    """
    target = path.resolve()
    try:
        old = target.read_bytes().decode("utf-8")
    except FileNotFoundError:
        old = ""
    except UnicodeDecodeError:
        raise _refusal(str(path), "the file is not UTF-8 text", name, entry) from None
    new = with_provider(old, name, entry, where=str(path))
    if new == old:
        return False
    _replace(target, new)
    return True


def with_provider(text: str, name: str, entry: Entry, *, where: str = "providers.yaml") -> str:
    """Returns the text with the entry: a new one at the end of `providers`, else its keys changed and the others kept.

    where: the file, for errors. Raises ConfigurationError where the edit is not certain to be right.
    """
    newline = "\r\n" if "\r\n" in text else "\n"
    root = _composed(text, name, entry, where)
    try:
        if root is None:
            edited = _inserted(text, len(text), [f"{_ROOT}:", *entry_lines(name, entry, _INDENT)], newline)
        else:
            edited = _edited(text, root, name, entry, newline)
        _prove(edited, _expected(root, name, entry))
    except (_Doubt, yaml.YAMLError) as doubt:
        reason = str(doubt) if isinstance(doubt, _Doubt) else "the edited file would not be valid YAML"
        raise _refusal(where, reason, name, entry) from None
    return edited


def _prove(edited: str, expected: Any) -> None:
    if _document(yaml.compose(edited, Loader=yaml.SafeLoader)) != expected:
        raise _Doubt("the edit would change more than this entry (an anchor, or a merge?)")


def entry_lines(name: str, entry: Entry, indent: int = 0) -> list[str]:
    """Returns the entry as lines of YAML, as it stands below `providers:`."""
    lines = [f"{' ' * indent}{_scalar(name)}:"]
    for key, value in entry.items():
        lines.extend(_lines_of(key, value, indent + _INDENT))
    return lines


class _Doubt(Exception):
    """A reason not to edit the file."""


def _refusal(where: str, reason: str, name: str, entry: Entry) -> ConfigurationError:
    shown = "\n".join(entry_lines(name, entry, _INDENT))
    return ConfigurationError(f"{where}: not changed, because {reason}. Put this below `{_ROOT}:` by hand:\n{shown}")


def _composed(text: str, name: str, entry: Entry, where: str) -> yaml.MappingNode | None:
    """Returns the root of the document; None for a file without one."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f" in line {mark.line + 1}"
        raise _refusal(where, f"it is not valid YAML{place}", name, entry) from None
    if root is not None and not isinstance(root, yaml.MappingNode):
        raise _refusal(where, "it does not hold keys and values", name, entry)
    return root


def _edited(text: str, root: yaml.MappingNode, name: str, entry: Entry, newline: str) -> str:
    providers = _child(root, _ROOT)
    if providers is None:
        raise _Doubt(f"it has no key `{_ROOT}`")
    block = _block(providers, _ROOT)
    present = _child(block, name)
    if present is None:
        indent = block.value[0][0].start_mark.column
        lines = _shifted(entry_lines(name, entry), indent)
        return _inserted(text, _end_of(text, block), lines, newline)
    own = _block(present, name)
    # The first key says what kind of provider it is: endpoint_id or base_url.
    if (kind := next(iter(entry))) and _child(own, kind) is None:
        raise _Doubt(f"{name} in line {own.start_mark.line + 1} is another kind of provider, without {kind}")
    return _merged(text, own, entry, newline)


def _merged(text: str, block: yaml.MappingNode, entry: Entry, newline: str) -> str:
    """Returns the text with the entry's keys set in this mapping."""
    edits: list[tuple[int, int, str]] = []
    added: list[str] = []
    indent = block.value[0][0].start_mark.column
    for key, value in entry.items():
        node = _child(block, key)
        if node is None:
            added.extend(_lines_of(key, value, indent))
        elif isinstance(value, Mapping):
            inner = _block(node, key)
            edits.extend(_scalar_edits(inner, value))
            missing = {name: each for name, each in value.items() if _child(inner, name) is None}
            lines = [line for name, each in missing.items() for line in _lines_of(name, each, _column(inner))]
            edits.extend(_insertion(text, inner, lines, newline))
        else:
            edits.extend(_scalar_edit(node, value))
    edits.extend(_insertion(text, block, added, newline))
    # From the end on, so that the marks hold; of two at one place the inner mapping's stays in front.
    edits.sort(key=lambda edit: edit[0])
    for start, end, replacement in reversed(edits):
        text = text[:start] + replacement + text[end:]
    return text


def _scalar_edits(block: yaml.MappingNode, values: Mapping[str, Scalar]) -> list[tuple[int, int, str]]:
    return [
        edit
        for key, value in values.items()
        if (node := _child(block, key)) is not None
        for edit in _scalar_edit(node, value)
    ]


def _scalar_edit(node: yaml.Node, value: Scalar) -> list[tuple[int, int, str]]:
    if not isinstance(node, yaml.ScalarNode) or node.style in ("|", ">"):
        raise _Doubt(f"line {node.start_mark.line + 1} does not hold one value")
    if node.value == str(value):
        return []
    written = _scalar(value)
    # A key without a value has an empty mark right behind its colon.
    blank = " " if node.start_mark.index == node.end_mark.index else ""
    return [(node.start_mark.index, node.end_mark.index, blank + written)]


def _insertion(text: str, block: yaml.MappingNode, lines: list[str], newline: str) -> list[tuple[int, int, str]]:
    if not lines:
        return []
    at = _end_of(text, block)
    return [(at, at, _separator(text, at, newline) + newline.join(lines) + newline)]


def _inserted(text: str, at: int, lines: list[str], newline: str) -> str:
    return text[:at] + _separator(text, at, newline) + newline.join(lines) + newline + text[at:]


def _separator(text: str, at: int, newline: str) -> str:
    return newline if at and text[at - 1] != "\n" else ""


def _end_of(text: str, block: yaml.MappingNode) -> int:
    """Returns where the line after the mapping's last value begins, behind the comments that are indented with it."""
    last: yaml.Node = block
    while isinstance(last, yaml.MappingNode | yaml.SequenceNode) and last.value and not last.flow_style:
        last = last.value[-1][1] if isinstance(last, yaml.MappingNode) else last.value[-1]
    at = last.end_mark.index
    if last.end_mark.column or not text[:at].endswith("\n"):
        at = _next_line(text, at)
    while at < len(text):
        end = _next_line(text, at)
        line = text[at:end]
        stripped = line.lstrip(" ")
        if not stripped.startswith("#") or len(line) - len(stripped) < _column(block):
            break
        at = end
    return at


def _next_line(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end + 1


def _column(block: yaml.MappingNode) -> int:
    column: int = block.value[0][0].start_mark.column
    return column


def _block(node: yaml.Node, key: str) -> yaml.MappingNode:
    """Returns a mapping that is written over several lines and has a key at least."""
    if not isinstance(node, yaml.MappingNode) or node.flow_style or not node.value:
        raise _Doubt(f"{key} in line {node.start_mark.line + 1} is not written as one key a line")
    return node


def _child(node: yaml.MappingNode, key: str) -> yaml.Node | None:
    found: list[yaml.Node] = [value for name, value in node.value if name.value == key]
    if len(found) > 1:
        raise _Doubt(f"{key} is there twice")
    return found[0] if found else None


def _document(node: yaml.Node | None) -> Any:
    """Returns the node as nested lists of what stands in the file: pairs of key and value, items, or text."""
    if isinstance(node, yaml.MappingNode):
        if any(not isinstance(key, yaml.ScalarNode) for key, _ in node.value):
            raise _Doubt("a key of it is no text")
        return [(key.value, _document(value)) for key, value in node.value]
    if isinstance(node, yaml.SequenceNode):
        return [_document(item) for item in node.value]
    return None if node is None else node.value


def _expected(root: yaml.MappingNode | None, name: str, entry: Entry) -> Any:
    wanted = [(key, _texts(value)) for key, value in entry.items()]
    return _with(_document(root) or [], [(_ROOT, [(name, wanted)])])


def _texts(value: Scalar | Mapping[str, Scalar]) -> Any:
    return [(key, str(each)) for key, each in value.items()] if isinstance(value, Mapping) else str(value)


def _with(document: list[tuple[str, Any]], wanted: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Returns the pairs with the wanted ones in place of, or behind, those that are there."""
    merged = dict(document)
    for key, value in wanted:
        merged[key] = _with(merged[key], value) if isinstance(value, list) and key in merged else value
    return list(merged.items())


def _lines_of(key: str, value: Scalar | Mapping[str, Scalar], indent: int) -> list[str]:
    if isinstance(value, Mapping):
        inner = [f"{' ' * (indent + _INDENT)}{_scalar(name)}: {_scalar(each)}" for name, each in value.items()]
        return [f"{' ' * indent}{_scalar(key)}:", *inner]
    return [f"{' ' * indent}{_scalar(key)}: {_scalar(value)}"]


def _shifted(lines: list[str], indent: int) -> list[str]:
    return [" " * indent + line for line in lines]


def _scalar(value: Scalar) -> str:
    if not isinstance(value, str):
        return f"{value:f}" if isinstance(value, Decimal) else str(value)
    if (_PLAIN.fullmatch(value) and value.lower() not in _WORDS) or _DATE.fullmatch(value):
        return value
    return "'" + value.replace("'", "''") + "'"


def _replace(target: Path, text: str) -> None:
    """Writes the file under another name beside it, then takes its place."""
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        else:
            temporary.chmod(0o644)
        temporary.replace(target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
