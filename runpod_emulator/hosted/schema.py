"""Instances of JSON schemas, small but not empty, for answers to `response_format` and tool calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from runpod_emulator.errors import BadRequest

Schema = Mapping[str, Any]
#: Deeper than this, optional parts are left out, so that most schemas that refer to themselves come to an end.
MAX_OPTIONAL_DEPTH = 4
#: Deeper than this, a schema is taken to have no finite instance.
MAX_DEPTH = 64

#: One valid value for each `format`.
FORMATS = {
    "date": "2026-11-01",
    "date-time": "2026-11-01T12:00:00Z",
    "time": "12:00:00Z",
    "email": "someone@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "ipv4": "127.0.0.1",
}


def instance(schema: Schema) -> Any:
    """Returns a value that is valid by the schema, always the same one.

    It supports what OpenAI's strict mode allows, and references, but not `pattern`. Raises BadRequest where there is no
    finite instance.
    """
    return _Maker(schema).make(schema, 0)


class _Maker:
    def __init__(self, root: Schema) -> None:
        self._root = root
        self._by_type: dict[str, Callable[[Schema, int], Any]] = {
            "object": self._object,
            "array": self._array,
            "string": _string,
            "integer": _number,
            "number": _number,
            "boolean": lambda _schema, _depth: True,
            "null": lambda _schema, _depth: None,
        }

    def make(self, schema: Schema, depth: int) -> Any:
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return schema["enum"][0]
        if branches := schema.get("anyOf") or schema.get("oneOf"):
            return self.make(self._branch(branches, depth), depth + 1)
        kind = schema.get("type") or ("object" if "properties" in schema else "string")
        if isinstance(kind, list):
            kind = "null" if depth > MAX_OPTIONAL_DEPTH and "null" in kind else kind[0]
        if kind not in self._by_type:
            raise BadRequest(f"schema: unknown type {kind!r}")
        if depth > MAX_DEPTH:
            raise BadRequest("schema: no finite instance exists, because it refers to itself without an end")
        return self._by_type[kind](schema, depth)

    def _resolved(self, schema: Schema) -> Schema:
        merged = dict(schema)
        while "$ref" in merged or "allOf" in merged:
            parts = merged.pop("allOf", [])
            if "$ref" in merged:
                parts = [*parts, self._look_up(merged.pop("$ref"))]
            for part in parts:
                properties = {**merged.get("properties", {}), **part.get("properties", {})}
                merged = {**merged, **part} | ({"properties": properties} if properties else {})
        return merged

    def _look_up(self, reference: str) -> Schema:
        node: Any = self._root
        for name in reference.removeprefix("#").strip("/").split("/"):
            # ~1 and ~0 are JSON Pointer's escapes (RFC 6901), to be decoded in this order.
            node = node.get(name.replace("~1", "/").replace("~0", "~")) if name else node
            if not isinstance(node, Mapping):
                raise BadRequest(f"schema: the reference {reference!r} leads nowhere")
        found: Schema = node
        return found

    def _branch(self, branches: list[Schema], depth: int) -> Schema:
        """Returns the first branch; deep down `null` or the last one, which is more likely to come to an end."""
        if depth > MAX_OPTIONAL_DEPTH:
            return next((branch for branch in branches if branch.get("type") == "null"), branches[-1])
        return branches[0]

    def _object(self, schema: Schema, depth: int) -> dict[str, Any]:
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        names = (
            required
            if depth > MAX_OPTIONAL_DEPTH
            else [*properties, *(name for name in required if name not in properties)]
        )
        return {name: self.make(properties.get(name, {}), depth + 1) for name in names}

    def _array(self, schema: Schema, depth: int) -> list[Any]:
        first = [self.make(item, depth + 1) for item in schema.get("prefixItems", [])]
        most = schema.get("maxItems", 1)
        count = max(schema.get("minItems", 0), min(most, 0 if depth > MAX_OPTIONAL_DEPTH or first else 1))
        return first + [self.make(schema.get("items") or {}, depth + 1) for _ in range(count - len(first))]


def _string(schema: Schema, _depth: int) -> str:
    text = FORMATS.get(schema.get("format", ""), "river")
    return text[: schema.get("maxLength", len(text))].ljust(schema.get("minLength", 0), "r")


def _number(schema: Schema, _depth: int) -> Any:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    whole = schema.get("type") == "integer"
    step = schema.get("multipleOf", 1 if whole else None)
    if step is not None:
        start = 1 if low is None else low
        value = -(-start // step) * step  # the first multiple that is not below start
        if value == schema.get("exclusiveMinimum"):
            value += step
        return value if high is None or value < high or value == schema.get("maximum") else high // step * step
    if low is not None and high is not None:
        return (low + high) / 2
    return low + 1 if low is not None else (1 if high is None else high - 1)
