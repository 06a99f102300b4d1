"""Reads a YAML file with its source locations, so that each error names file, line and path.

Numbers are read from their text: a price must not pass through a float.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TypeVar

import yaml

from vllm_service.domain.spelling import nearest
from vllm_service.domain.strategies import RoutingStrategy
from vllm_service.errors import ConfigurationError, ConfigurationFaults

Read = TypeVar("Read")


class Value:
    """A node of the file. Reading it as another type raises ConfigurationError with its location."""

    def __init__(self, node: yaml.Node, file: Path, path: str, faults: ConfigurationFaults) -> None:
        self._node = node
        self.file = file
        self.path = path
        #: Those of the whole configuration: where reading can go on after an error, the error is added here.
        self.faults = faults

    def wrong(self, what: str) -> ConfigurationError:
        """Returns an error about this node, to be raised. what: what is wrong, and what to do."""
        # A value that was not read from a file, such as an argument's, has no line.
        line = f":{mark.line + 1}" if (mark := self._node.start_mark) else ""
        where = f"{self.path}: " if self.path else ""
        return ConfigurationError(f"{self.file}{line}: {where}{what}", param=self.path or None)

    def text(self) -> str:
        """Returns a text that is not empty."""
        if not isinstance(self._node, yaml.ScalarNode) or not self._node.value.strip():
            raise self.wrong("expected text")
        return str(self._node.value)

    def number(self) -> Decimal:
        """Returns a number that is not negative, exactly as it is written."""
        try:
            number = Decimal(self.text())
        except InvalidOperation:
            raise self.wrong(f"expected a number, got {self.text()!r}") from None
        if not number.is_finite() or number < 0:
            raise self.wrong(f"expected a number of at least 0, got {number}")
        return number

    def positive(self) -> float:
        """Returns a number above zero."""
        if (number := self.number()) == 0:
            raise self.wrong("expected a number above zero")
        if not math.isfinite(positive := float(number)):
            raise self.wrong(f"{self.text()} is too large a number; lower it")
        return positive

    def count(self) -> int:
        """Returns a whole number above zero."""
        number = self.positive()
        if number != int(number):
            raise self.wrong(f"expected a whole number, got {number}")
        return int(number)

    def switch(self) -> bool:
        """Returns a boolean."""
        if (text := self.text().lower()) not in ("true", "false"):
            raise self.wrong(f"expected true or false, got {text!r}")
        return text == "true"

    def choice(self, choices: Collection[str]) -> str:
        """Returns a text that is one of these."""
        if (text := self.text()) not in choices:
            raise self.wrong(f"{text!r} is not known{nearest(text, choices)}; expected one of {_listed(choices)}")
        return text

    def strategy(self) -> str:
        """Returns the name of a routing strategy, which may be written in small letters."""
        try:
            return RoutingStrategy(self.text()).value
        except ValueError:
            return self.choice([strategy.value for strategy in RoutingStrategy])

    @property
    def is_list(self) -> bool:
        """True for a list, of which `items` can be read."""
        return isinstance(self._node, yaml.SequenceNode)

    def items(self) -> list[Value]:
        """Returns the items of a list."""
        if not self.is_list:
            raise self.wrong("expected a list: [a, b]")
        return [self._inner(node, f"{self.path}[{index}]") for index, node in enumerate(self._node.value)]

    def _inner(self, node: yaml.Node, path: str) -> Value:
        return Value(node, self.file, path, self.faults)

    def words(self) -> tuple[str, ...]:
        """Returns a list of texts."""
        return tuple(item.text() for item in self.items())

    def section(self, known: Collection[str] | None = None) -> Section:
        """Returns a mapping. known: the keys that it may have; None allows any."""
        return Section(self, self._node, known)


class Section:
    """A mapping of the file, by key. Unknown and duplicate keys are added to the faults, and left out.

    `get` and `need` give a value that raises when it is wrong. `read`, and what is made of it, adds the error to the
    faults and returns the default, so that the errors behind it are found too.
    """

    def __init__(self, value: Value, node: yaml.Node, known: Collection[str] | None) -> None:
        if not isinstance(node, yaml.MappingNode):
            raise value.wrong("expected keys and values: {key: value}")
        #: The mapping's own node, for errors about it.
        self.value = value
        self._values: dict[str, Value] = {}
        for key_node, value_node in node.value:
            with value.faults:
                self._add(str(key_node.value), key_node, value_node, known)

    def _add(self, key: str, key_node: yaml.Node, value_node: yaml.Node, known: Collection[str] | None) -> None:
        value = self.value
        inner = f"{value.path}.{key}" if value.path else key
        if key in self._values:
            raise Value(key_node, value.file, inner, value.faults).wrong("the key is here twice; remove one")
        if known is not None and key not in known:
            hint = f"unknown key{nearest(key, known)}; allowed here: {', '.join(known)}"
            raise Value(key_node, value.file, inner, value.faults).wrong(hint)
        # A key without a value counts as not set, so that a file can keep it as a reminder.
        if value_node.tag != "tag:yaml.org,2002:null":
            self._values[key] = Value(value_node, value.file, inner, value.faults)

    def __iter__(self) -> Iterator[tuple[str, Value]]:
        return iter(self._values.items())

    def get(self, key: str) -> Value | None:
        """Returns the key's value; None where it is not set."""
        return self._values.get(key)

    def need(self, key: str) -> Value:
        """Returns the key's value. Raises ConfigurationError where it is not set."""
        if key not in self._values:
            raise self.value.wrong(f"{key} is missing; add it")
        return self._values[key]

    def read(self, key: str, read: Callable[[Value], Read], default: Read) -> Read:
        """Returns what `read` makes of the key's value; the default where it is not set or wrong."""
        value = self.get(key)
        if value is not None:
            with value.faults:
                return read(value)
        return default

    def read_needed(self, key: str, read: Callable[[Value], Read], default: Read) -> Read:
        """Returns what `read` makes of the key's value; the default where it is missing, a fault, or wrong."""
        with self.value.faults:
            return read(self.need(key))
        return default

    def text(self, key: str) -> str | None:
        """Returns the key's text; None where it is not set."""
        return self.read(key, Value.text, None)

    def words(self, key: str) -> tuple[str, ...]:
        """Returns the key's list of texts; an empty one where it is not set."""
        return self.read(key, Value.words, ())

    def positive(self, key: str, default: float) -> float:
        """Returns the key's number; the default where it is not set."""
        return self.read(key, Value.positive, default)

    def choice(self, key: str, choices: Collection[str], default: str) -> str:
        """Returns the key's text, which is one of these; the default where it is not set."""
        return self.read(key, lambda value: value.choice(choices), default)


#: What to do about a file of the gateway that is not there.
GATEWAY_FILES_HINT = (
    "Write both files with `python -m vllm_service examples write`, or set CONFIG_DIR to their directory."
)
GATEWAY_EMPTY_HINT = "`python -m vllm_service examples write` writes a complete one"


def read_yaml(
    path: Path,
    faults: ConfigurationFaults,
    *,
    hint: str = GATEWAY_FILES_HINT,
    empty_hint: str = GATEWAY_EMPTY_HINT,
) -> Value:
    """Returns the root of the file, whose errors are added to the faults.

    Raises ConfigurationError when it cannot be read or is not YAML. hint, empty_hint: what to do about a missing and
    about an empty file.
    """
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror or error}. {hint}", param=str(path)) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = f":{mark.line + 1}" if (mark := getattr(error, "problem_mark", None)) else ""
        problem = getattr(error, "problem", None) or "not UTF-8 text"
        raise ConfigurationError(f"{path}{line}: the file is not valid YAML: {problem}", param=str(path)) from None
    except RecursionError:
        raise ConfigurationError(f"{path}: the file is nested too deeply; flatten it", param=str(path)) from None
    if node is None:
        raise ConfigurationError(f"{path}: the file is empty; {empty_hint}", param=str(path))
    return Value(node, path, "", faults)


def _listed(choices: Collection[str]) -> str:
    return ", ".join(choices) or "none: there is nothing to choose from"
