"""A caller's JSON, read once: the few fields that decide something. The rest passes through as it came."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from vllm_service.domain.usage import longest_answer_tokens, prefix_of
from vllm_service.errors import InvalidRequest
from vllm_service.gateway.operations import Operation

# To JSON's schemas 5.0 is an integer, and some clients write so.
Count = int | float | None

_EMPTY = msgspec.Raw(b"")


class StreamOptions(msgspec.Struct):
    """Of `stream_options` what the gateway looks at."""

    include_usage: bool | None = None


class RequestFields(msgspec.Struct):
    """What the gateway reads of a request, whichever operation it is for."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    max_tokens: Count = None
    max_completion_tokens: Count = None
    max_output_tokens: Count = None
    n: Count = None
    messages: msgspec.Raw = _EMPTY
    prompt: msgspec.Raw = _EMPTY
    input: msgspec.Raw = _EMPTY

    @property
    def wants_usage(self) -> bool:
        """Whether the caller asked for the usage chunk of a stream."""
        return self.stream_options is not None and self.stream_options.include_usage is True

    @property
    def longest_answer_tokens(self) -> int | None:
        """The caller's bound on the answer, of all choices together; None without one."""
        bound = self.max_completion_tokens or self.max_tokens or self.max_output_tokens
        return longest_answer_tokens(bound, self.n)

    @property
    def prefix(self) -> int:
        """A hash of how the conversation begins, the same in every process; 0 for a shorter one."""
        return prefix_of(self.messages or self.input or self.prompt)

    def floats_for_bounds(self) -> Sequence[tuple[str, float]]:
        """Bounds that were written as 5.0, which providers may refuse; they are passed on as 5."""
        most, completion, output = self.max_tokens, self.max_completion_tokens, self.max_output_tokens
        if float not in (most.__class__, completion.__class__, output.__class__):
            return ()
        named = (("max_tokens", most), ("max_completion_tokens", completion), ("max_output_tokens", output))
        return [(name, bound) for name, bound in named if isinstance(bound, float)]


_decoder = msgspec.json.Decoder(RequestFields)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encoder = msgspec.json.Encoder()
# msgspec speaks of Python's types, callers write JSON.
_PYTHON_WORD = re.compile(r"int \| float|\w+")
_JSON_WORDS = {"int | float": "number", "int": "integer", "float": "number", "str": "string", "bool": "boolean"}
_MODEL = re.compile(rb'"model"\s*:\s*"([^"\\]*)"')
_USAGE = msgspec.Raw(b'{"include_usage":true}')


def read(body: bytes) -> RequestFields:
    """The fields. Raises errors.InvalidRequest naming the field that is wrong; it quotes no text of the caller."""
    try:
        str(body, "utf-8")  # msgspec does not look at the text of members that it skips
        fields = _decoder.decode(body)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        what = _PYTHON_WORD.sub(lambda found: _JSON_WORDS.get(found[0], found[0]), what)
        param = where.rstrip("`") or ("model" if "`model`" in what else None)
        raise InvalidRequest(f"The request is not valid: {what}.", param=param) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidRequest("The request's body is not a JSON object.") from None
    for name, bound in fields.floats_for_bounds():  # JSON's 5.0 is a whole number; some clients write it
        if not bound.is_integer():
            raise InvalidRequest(f"The request is not valid: `{name}` is not a whole number.", param=name)
    return fields


def _renamed(body: bytes, before: str, after: str) -> bytes | None:
    """The body with another model and every other byte as it was; None where it is not plain where its name stands.

    The body has been read, so it has a member `model`. Where no character is written as \\u, its name can only stand as
    it is, and where that is there once, this is it.
    """
    if body.count(b'"model"') != 1 or b"\\u" in body:
        return None
    found = _MODEL.search(body)
    if found is None or found[1] != before.encode():
        return None
    return b"%b%b%b" % (body[: found.start(1) - 1], _encoder.encode(after), body[found.end(1) + 1 :])


def for_provider(body: bytes, fields: RequestFields, operation: Operation, model: str) -> bytes:
    """The body with the provider's name of the model, and in streams with a wish for usage; else byte for byte.

    Of a member that is there twice the last counts, as providers read it; only that one is passed on.
    """
    needs_usage = fields.stream and operation.has_stream_options and not fields.wants_usage
    bounds = fields.floats_for_bounds()
    if not needs_usage and not bounds:
        renamed = body if model == fields.model else _renamed(body, fields.model, model)
        if renamed is not None:
            return renamed
    members = _members.decode(body)
    for name, bound in bounds:
        members[name] = msgspec.Raw(b"%d" % bound)
    members["model"] = msgspec.Raw(_encoder.encode(model))
    if needs_usage:
        options = members.get("stream_options")
        if fields.stream_options is None or options is None:
            members["stream_options"] = _USAGE
        else:
            inner = _members.decode(options)
            inner["include_usage"] = msgspec.Raw(b"true")
            members["stream_options"] = msgspec.Raw(_encoder.encode(inner))
    return _encoder.encode(members)
