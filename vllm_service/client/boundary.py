"""The boundary of the client's public calls: whatever they are given, and whatever a library raises, is a ServiceError.

`raises_ours` puts every public method of a class behind it, so a new method needs nothing of its own. An argument of
another type than the signature's is refused before the call begins. Any other exception of the call is the `__cause__`
of a ServiceError. Cancellation, KeyboardInterrupt and the ends of iterators pass as they are.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, NamedTuple, TypeVar, Union, cast

from vllm_service.errors import ConfigurationError, InvalidRequest, ServiceError

K = TypeVar("K", bound=type[Any])
F = TypeVar("F", bound=Callable[..., Any])

#: The special methods that callers use.
SPECIAL = frozenset({"__init__", "__aenter__", "__aexit__", "__enter__", "__exit__", "__anext__", "__next__"})
_ENDS = {"__anext__": StopAsyncIteration, "__next__": StopIteration}


def raises_ours(kind: K) -> K:
    """Puts the methods that the class itself defines behind the boundary, if they are public. Returns the class."""
    for name, member in list(vars(kind).items()):
        if inspect.isfunction(member) and (name in SPECIAL or not name.startswith("_")):
            setattr(kind, name, guarded(member))
    return kind


def guarded(function: F) -> F:
    """Returns the function behind the boundary."""
    boundary = _Boundary(function)
    if inspect.iscoroutinefunction(function):
        made: Any = _coroutine(function, boundary)
    elif inspect.isasyncgenfunction(function):
        made = _generator(function, boundary)
    else:
        made = _call(function, boundary)
    functools.update_wrapper(made, function)
    return cast("F", made)


def ours(error: Exception, what: str) -> ServiceError:
    """Returns the ServiceError for an exception of `what`; its text is left out, since it may hold a prompt."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, ServiceError):
        return error
    made = ServiceError(f"{what} failed with {type(error).__name__}; the exception is this error's __cause__")
    made.__cause__ = error
    return made


def _coroutine(function: Callable[..., Any], boundary: _Boundary) -> Callable[..., Any]:
    has_none = function.__name__ in _ENDS  # an iterator's next item takes no arguments, and there are many

    async def call(*args: Any, **options: Any) -> Any:
        try:
            if not has_none:
                boundary.check(args, options)
            return await function(*args, **options)
        except ServiceError:
            raise
        except Exception as error:
            raise boundary.outside(error, args, options) from error

    return call


def _generator(function: Callable[..., Any], boundary: _Boundary) -> Callable[..., Any]:
    async def iterate(*args: Any, **options: Any) -> AsyncGenerator[Any]:
        try:
            boundary.check(args, options)
            async with aclosing(function(*args, **options)) as items:
                async for item in items:
                    yield item
        except ServiceError:
            raise
        except Exception as error:
            raise boundary.outside(error, args, options) from error

    return iterate


def _call(function: Callable[..., Any], boundary: _Boundary) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        try:
            boundary.check(args, options)
            return function(*args, **options)
        except ServiceError as error:
            return boundary.late(error)
        except Exception as error:
            outside = boundary.outside(error, args, options)
            if outside is not error:
                outside.__cause__ = error
            return boundary.late(outside)

    return call


class _Boundary:
    """The parameters of one function, as the boundary checks them. Its annotations are read at the first call."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._name = function.__name__
        self._end = _ENDS.get(self._name)
        self._kind = ConfigurationError if self._name == "__init__" else InvalidRequest

    @functools.cached_property
    def _types(self) -> Mapping[str, _Type | None]:
        hints = typing.get_type_hints(self._function)
        return {name: _type_of(hint) for name, hint in hints.items()}

    @functools.cached_property
    def _names(self) -> tuple[str, ...]:
        named = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = inspect.signature(self._function).parameters.values()
        return tuple(parameter.name for parameter in parameters if parameter.kind in named)

    def check(self, args: tuple[Any, ...], options: Mapping[str, Any]) -> None:
        """Raises an error that names the first argument of another type than the signature's."""
        types = self._types
        for name, value in (*zip(self._names, args, strict=False), *options.items()):
            expected = types.get(name)
            if expected is not None and not expected.accepts(value):
                raise self._kind(f"{name}: expected {expected.text}, got {type(value).__name__}", param=name)

    def outside(self, error: Exception, args: tuple[Any, ...], options: Mapping[str, Any]) -> Exception:
        """Returns what is raised for an exception that is no ServiceError: the end of an iterator is itself."""
        if self._end is not None and isinstance(error, self._end):
            return error
        if isinstance(error, TypeError):
            try:
                inspect.signature(self._function).bind(*args, **options)
            except TypeError as unbound:  # it names arguments, never their values
                return self._kind(f"{self._name}: {unbound}")
        return ours(error, self._name)

    def late(self, error: Exception) -> Any:
        """Raises the error; where the function returns a stream, the stream raises it when it is read."""
        returned = typing.get_type_hints(self._function).get("return")
        if (failing := getattr(returned, "failing", None)) is not None:
            return failing(error)
        raise error


class _Type(NamedTuple):
    """The accepted values of a parameter."""

    kinds: tuple[type, ...]
    text: str
    #: A text is a sequence of its letters, and a mapping one of its keys, which is never meant.
    is_sequence: bool = False
    #: Of a mapping: what its keys and values must be.
    members: tuple[_Type | None, _Type | None] = (None, None)

    def accepts(self, value: object) -> bool:
        if not isinstance(value, self.kinds) or (self.is_sequence and isinstance(value, str | bytes | Mapping)):
            return False
        if self.members == (None, None) or not isinstance(value, Mapping):
            return True
        keys, values = self.members
        return all(
            (keys is None or keys.accepts(key)) and (values is None or values.accepts(value[key])) for key in value
        )


def _type_of(hint: Any) -> _Type | None:
    """Returns the accepted values of an annotation; None if they are not known by their type alone."""
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return _union([_type_of(part) for part in typing.get_args(hint)])
    kind = origin or hint
    if kind is None or kind is types.NoneType:
        return _Type((types.NoneType,), "None")
    if not isinstance(kind, type) or getattr(kind, "_is_protocol", False) or kind in (Any, object):
        return None
    if kind is float:
        return _Type((float, int), "a number")
    if issubclass(kind, Mapping):
        parts = [_type_of(part) for part in typing.get_args(hint)] or [None, None]
        return _Type((kind,), _mapping_text(parts), members=(parts[0], parts[1]))
    is_sequence = issubclass(kind, Iterable) and not issubclass(kind, str | bytes)
    return _Type((kind,), "a list" if is_sequence and origin else _name(kind), is_sequence=is_sequence)


def _union(parts: list[_Type | None]) -> _Type | None:
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    members = next((part.members for part in known if part.members != (None, None)), (None, None))
    kinds = tuple(kind for part in known for kind in part.kinds)
    has_text = any(issubclass(kind, str) for kind in kinds)
    is_sequence = not has_text and any(part.is_sequence for part in known)
    return _Type(kinds, " or ".join(part.text for part in known), is_sequence, members)


def _mapping_text(parts: list[_Type | None]) -> str:
    texts = ["anything" if part is None else part.text for part in parts]
    return "a mapping" if parts == [None, None] else f"a mapping of {texts[0]} to {texts[1]}"


def _name(kind: type) -> str:
    names = {"str": "text", "int": "an integer", "bool": "True or False", "Callable": "a function"}
    return names.get(kind.__name__, kind.__name__)
