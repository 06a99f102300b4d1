"""A YAML file read with its places: every complaint names file, line and path, and what to do. Numbers stay text."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path

import yaml

from vllm_service.errors import ConfigurationError


class Value:
    """A node of the file. Reading it as something that it is not raises ConfigurationError."""

    def __init__(self, node: yaml.Node, file: Path, path: str) -> None:
        self._node = node
        self.file = file
        self.path = path

    def wrong(self, what: str) -> ConfigurationError:
        """The complaint about this place, to be raised."""
        line = self._node.start_mark.line + 1
        where = f"{self.path}: " if self.path else ""
        return ConfigurationError(f"{self.file}:{line}: {where}{what}", param=self.path or None)

    def text(self) -> str:
        """One word or line."""
        if not isinstance(self._node, yaml.ScalarNode) or not self._node.value.strip():
            raise self.wrong("expected text")
        return str(self._node.value)

    def number(self) -> Decimal:
        """Exactly as it is written; never negative."""
        try:
            number = Decimal(self.text())
        except InvalidOperation:
            raise self.wrong(f"expected a number, got {self.text()!r}") from None
        if not number.is_finite() or number < 0:
            raise self.wrong(f"expected a number that is not negative, got {number}")
        return number

    def positive(self) -> float:
        """Above zero."""
        if (number := self.number()) == 0:
            raise self.wrong("expected a number above zero")
        return float(number)

    def count(self) -> int:
        """A whole number above zero."""
        number = self.positive()
        if number != int(number):
            raise self.wrong(f"expected a whole number, got {number}")
        return int(number)

    def switch(self) -> bool:
        """True or false."""
        if (text := self.text().lower()) not in ("true", "false"):
            raise self.wrong(f"expected true or false, got {text!r}")
        return text == "true"

    def choice(self, choices: Collection[str]) -> str:
        """One of these."""
        if (text := self.text()) not in choices:
            raise self.wrong(f"{text!r} is not known{_nearest(text, choices)}; expected one of {', '.join(choices)}")
        return text

    @property
    def is_list(self) -> bool:
        """Whether `items` can be asked for."""
        return isinstance(self._node, yaml.SequenceNode)

    def items(self) -> list[Value]:
        """A list's."""
        if not self.is_list:
            raise self.wrong("expected a list: [a, b]")
        return [Value(node, self.file, f"{self.path}[{index}]") for index, node in enumerate(self._node.value)]

    def words(self) -> tuple[str, ...]:
        """A list of texts."""
        return tuple(item.text() for item in self.items())

    def section(self, known: Collection[str] | None = None) -> Section:
        """A mapping; `known` are the keys that it may have, None any."""
        return Section(self, self._node, known)


class Section:
    """A mapping of the file, by key. Raises ConfigurationError for unknown, doubled and missing keys."""

    def __init__(self, place: Value, node: yaml.Node, known: Collection[str] | None) -> None:
        if not isinstance(node, yaml.MappingNode):
            raise place.wrong("expected keys and values")
        self.place = place
        self._values: dict[str, Value] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            inner = f"{place.path}.{key}" if place.path else key
            if key in self._values:
                raise Value(key_node, place.file, inner).wrong("stands here twice")
            if known is not None and key not in known:
                hint = f"not a key{_nearest(key, known)}; known here: {', '.join(known)}"
                raise Value(key_node, place.file, inner).wrong(hint)
            if value_node.tag != "tag:yaml.org,2002:null":
                self._values[key] = Value(value_node, place.file, inner)

    def __iter__(self) -> Iterator[tuple[str, Value]]:
        return iter(self._values.items())

    def get(self, key: str) -> Value | None:
        """None where it is not set."""
        return self._values.get(key)

    def need(self, key: str) -> Value:
        """Raises ConfigurationError where it is not set."""
        if key not in self._values:
            raise self.place.wrong(f"{key} is missing")
        return self._values[key]

    def text(self, key: str) -> str | None:
        """The key's text, where it is set."""
        value = self.get(key)
        return None if value is None else value.text()

    def words(self, key: str) -> tuple[str, ...]:
        """The key's list of texts, empty where it is not set."""
        value = self.get(key)
        return () if value is None else value.words()

    def positive(self, key: str, default: float) -> float:
        """The key's number, where it is set."""
        value = self.get(key)
        return default if value is None else value.positive()


def read_yaml(path: Path) -> Value:
    """The whole file. Raises ConfigurationError when it cannot be read or is not YAML."""
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        hint = "`python -m vllm_service examples write` makes both files to begin with; or set CONFIG_DIR."
        raise ConfigurationError(f"{path}: {error.strerror or error}. {hint}", param=str(path)) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = f":{mark.line + 1}" if (mark := getattr(error, "problem_mark", None)) else ""
        problem = getattr(error, "problem", None) or "not UTF-8 text"
        raise ConfigurationError(f"{path}{line}: not YAML: {problem}", param=str(path)) from None
    if node is None:
        raise ConfigurationError(
            f"{path}: the file is empty; `python -m vllm_service examples write` writes a whole one", param=str(path)
        )
    return Value(node, path, "")


def _nearest(word: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""
