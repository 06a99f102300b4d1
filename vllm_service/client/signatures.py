"""Arguments written once: methods that take the same share one signature, which type checkers and editors see on each.

A method is written for what its arguments come to; `taking(arguments)` gives it the arguments themselves.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

S = TypeVar("S")
P = ParamSpec("P")
A = TypeVar("A")
T = TypeVar("T")


def taking(
    arguments: Callable[Concatenate[S, P], A],
) -> Callable[[Callable[[S, A], T]], Callable[Concatenate[S, P], T]]:
    """Returns a decorator: the method takes what `arguments` takes, and is given what `arguments` returns.

    A coroutine function stays one, so that wrong arguments are an error where it is awaited.
    """

    def sign(method: Callable[[S, A], T]) -> Callable[Concatenate[S, P], T]:
        if inspect.iscoroutinefunction(method):

            async def wait(self: S, /, *args: P.args, **options: P.kwargs) -> Any:
                return await method(self, arguments(self, *args, **options))

            return cast("Callable[Concatenate[S, P], T]", _signed(wait, arguments, method))

        def call(self: S, /, *args: P.args, **options: P.kwargs) -> T:
            return method(self, arguments(self, *args, **options))

        return cast("Callable[Concatenate[S, P], T]", _signed(call, arguments, method))

    return sign


def constructing(kind: Callable[P, A]) -> Callable[[Callable[[S, A], None]], Callable[Concatenate[S, P], None]]:
    """Returns a decorator for `__init__`: it takes what the class `kind` takes, and is given a new object of it."""

    made: Any = kind

    def sign(method: Callable[[S, A], None]) -> Callable[Concatenate[S, P], None]:
        def call(self: S, /, *args: P.args, **options: P.kwargs) -> None:
            method(self, kind(*args, **options))

        return cast("Callable[Concatenate[S, P], None]", _signed(call, made.__init__, method))

    return sign


def _signed(call: Any, arguments: Callable[..., Any], method: Callable[..., Any]) -> Any:
    """Name and description of the method, parameters of `arguments`: what `help` and `inspect` show."""
    functools.update_wrapper(call, method)
    returned = inspect.signature(method).return_annotation
    call.__signature__ = inspect.signature(arguments).replace(return_annotation=returned)
    call.__annotations__ = {**arguments.__annotations__, "return": returned}
    return call
