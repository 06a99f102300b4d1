"""Reads single variables of an environment, and keeps every one that is wrong, so that all are reported at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TypeVar

from handler.errors import ConfigurationError

TRUE_WORDS, FALSE_WORDS = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
Found = TypeVar("Found")
Value = TypeVar("Value")


def values_set(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables that have a value, stripped, with `~` replaced where a path begins with it.

    An empty value counts as not set. No shell has read a variable that was typed into a form.
    """
    return {name: with_home(value.strip()) for name, value in environment.items() if value.strip()}


def with_home(value: str) -> str:
    """Returns the value with the home directory in the place of a leading `~/`."""
    return str(Path(value).expanduser()) if value == "~" or value.startswith("~/") else value


class Faults:
    """Collects what is wrong with a configuration. As a context manager it keeps the ConfigurationError of its body."""

    def __init__(self) -> None:
        self._found: list[ConfigurationError] = []

    def add(self, variable: str, expected: str, value: str | None = None) -> None:
        """Keeps an error of this variable, with the value that is set instead of what is expected, if it is given."""
        shown = variable if value is None else f"{variable}={value!r}"
        self._found.append(ConfigurationError(f"{shown}: {expected}", param=variable))

    def __enter__(self) -> None:
        """Keeps the ConfigurationError that the body raises; the code after the body runs on."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, ConfigurationError):
            return False
        self._found.append(error)
        return True

    def raise_all(self) -> None:
        """Raises the error, or one with the messages of all, a line each; does nothing if there is none."""
        if len(self._found) == 1:
            raise self._found[0]
        if self._found:
            names = [error.param for error in self._found if error.param]
            raise ConfigurationError("\n".join(error.message for error in self._found), param=", ".join(names))


class Variables:
    """The variables that have a value. One that is wrong is kept in `faults`, and read as its default."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.given = values_set(environment)
        self.faults = Faults()

    def whole_number(self, name: str, default: Value) -> int | Value:
        """Returns a whole number."""
        return self._read(name, default, int, "expected a whole number")

    def count(self, name: str, default: int) -> int:
        """Returns a whole number of at least 1."""
        return self._read(name, default, _count, "expected a whole number, at least 1")

    def port(self, name: str) -> int | None:
        """Returns a port; None where none is set."""
        return self._read(name, None, _port, "expected a port, 1 to 65535")

    def path(self, name: str, default: str) -> str:
        """Returns the path of a URL."""
        return self._read(name, default, _path, "expected a path that begins with a slash")

    def seconds(self, name: str, default: float) -> float:
        """Returns a span of time."""
        return self._read(name, default, _seconds, "expected a number of seconds above zero")

    def switch(self, name: str, default: bool) -> bool:
        """Returns true or false."""
        return self._read(name, default, _switch, "expected true or false")

    def usd(self, name: str) -> Decimal | None:
        """Returns dollars; None where none are set."""
        return self._read(name, None, _usd, "expected dollars, such as 0.00031")

    def _read(self, name: str, default: Value, parse: Callable[[str], Found], expected: str) -> Found | Value:
        if name not in self.given:
            return default
        value = self.given[name]
        try:
            return parse(value)
        except (ValueError, InvalidOperation):
            self.faults.add(name, expected, value)
            return default


def _count(value: str) -> int:
    if (count := int(value)) < 1:
        raise ValueError
    return count


def _port(value: str) -> int:
    if not 0 <= (port := int(value)) <= 65535:
        raise ValueError
    return port


def _path(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError
    return value


def _seconds(value: str) -> float:
    if not 0 < (seconds := float(value)) < float("inf"):
        raise ValueError
    return seconds


def _switch(value: str) -> bool:
    if value.lower() not in TRUE_WORDS + FALSE_WORDS:
        raise ValueError
    return value.lower() in TRUE_WORDS


def _usd(value: str) -> Decimal:
    usd = Decimal(value)
    if not usd.is_finite() or usd < 0:
        raise ValueError
    return usd
