"""The difference between what RunPod has and what a specification wants, field by field, without variables' values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

#: Stands for every value of a variable: it may be a secret, whatever its name.
CONCEALED = "(concealed)"
#: Fields that REST v2 can set only when it makes an endpoint (its schema of 2026-08).
UNCHANGEABLE = ("type",)
_VARIABLES = "env"


@dataclass(frozen=True, slots=True)
class Difference:
    """One field that is not as it should be."""

    #: The path in RunPod's document, such as workers.max; a variable is env.NAME.
    field: str
    #: Its value at RunPod; None where it has none.
    before: Any
    #: Its value by the specification; None where a variable is to go.
    after: Any
    #: True for what RunPod cannot change: only something new can have it.
    cannot_change: bool = False


def differences(wanted: Mapping[str, Any], existing: Mapping[str, Any] | None) -> tuple[Difference, ...]:
    """Returns the fields of `wanted`, in its order, that `existing` has otherwise. Fields of neither are not compared.

    wanted: the body of a request. existing: RunPod's document; None where there is none, so that every field differs.
    """
    there = {} if existing is None else existing
    return tuple(
        Difference(field, before, after, cannot_change=existing is not None and field in UNCHANGEABLE)
        for field, before, after in _compared(wanted, there, "")
    )


def _compared(wanted: Mapping[str, Any], there: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any, Any]]:
    for name, after in wanted.items():
        before = there.get(name)
        if not path and name == _VARIABLES:
            yield from _variables(after, before if isinstance(before, Mapping) else {})
        elif isinstance(after, Mapping):
            yield from _compared(after, before if isinstance(before, Mapping) else {}, f"{path}{name}.")
        elif _plain(before) != _plain(after):
            yield f"{path}{name}", _shown(before), _shown(after)


def _variables(wanted: Mapping[str, str], there: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yields the variables that differ. A change of one replaces all of them, so that others go."""
    for name in [*wanted, *(name for name in there if name not in wanted)]:
        if wanted.get(name) != there.get(name):
            yield (
                f"{_VARIABLES}.{name}",
                CONCEALED if name in there else None,
                CONCEALED if name in wanted else None,
            )


def _plain(value: Any) -> Any:
    """Returns a number as Decimal, so that 2.5 read as text and 2.5 of a body are equal."""
    return Decimal(str(value)) if isinstance(value, float) else value


def _shown(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else value
