"""Reads a caller's JSON once, for the few fields that the gateway needs, and writes it for a provider.

All other members are passed on as they came, byte for byte.
"""

from __future__ import annotations

import base64
import hmac
import os
import re
from collections.abc import Sequence
from typing import NamedTuple
from zlib import crc32

import msgspec

from vllm_service.catalog.model import PromptCache
from vllm_service.domain.answers import Form
from vllm_service.domain.usage import choices_of, longest_answer_tokens, prefix_of
from vllm_service.errors import InvalidRequest
from vllm_service.gateway.operations import COMPLETIONS, Operation

#: A whole number. JSON Schema takes 5.0 for an integer, and some clients write it so.
Count = int | float | None

_EMPTY = msgspec.Raw(b"")
#: No provider takes more in one request. Each is an object here, and an answer there.
MOST_PROMPTS = 2**14
#: A list of prompts is counted as a whole up to here, at 60 ns a byte where its parts are empty.
_LARGE_BYTES = 2**14
#: Of a body that has to be written anew, the members besides the long ones that are read: each of them is an object.
MOST_OTHER_BYTES = 2**18


class StreamOptions(msgspec.Struct):
    """The member of `stream_options` that the gateway reads."""

    include_usage: bool | None = None


class RequestFields(msgspec.Struct):
    """The members of a body that the gateway reads, of all operations together."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    # One bound on the answer under three names: the older and the newer one of chat, and the one of responses.
    max_tokens: Count = None
    max_completion_tokens: Count = None
    max_output_tokens: Count = None
    n: Count = None
    best_of: Count = None
    # The prompts stay raw: only their first bytes are hashed.
    messages: msgspec.Raw = _EMPTY
    prompt: msgspec.Raw = _EMPTY
    prompt_embeds: msgspec.Raw = _EMPTY
    input: msgspec.Raw = _EMPTY
    # The caller's own division of the prompt cache.
    cache_salt: msgspec.Raw = _EMPTY
    prompt_cache_key: msgspec.Raw = _EMPTY
    tools: msgspec.Raw = _EMPTY
    #: Of responses.
    background: bool | None = None

    @property
    def requests_usage(self) -> bool:
        """True if the caller has requested the usage chunk of a stream."""
        return self.stream_options is not None and self.stream_options.include_usage is True

    def written_answers(self, operation: Operation) -> int:
        """Returns how many answers a provider writes: one for each prompt of a list, times `n` or `best_of`."""
        if not operation.has_choices:
            return 1
        prompts = self._prompts(operation)
        if prompts <= 1 and self.n is None and self.best_of is None:
            return 1
        return choices_of((self.n, self.best_of), prompts)

    def longest_answer_tokens(self, operation: Operation, choices: int) -> int | None:
        """Returns the caller's bound on the tokens of the answer, all choices together; None if there is none.

        A bound that the operation does not have bounds nothing: providers ignore it.
        """
        return longest_answer_tokens(operation.bounds_in(self), choices)

    def choices(self, operation: Operation) -> int:
        """Returns how many choices an answer has: `n` for each prompt of a list. What `best_of` drops is none."""
        return choices_of((self.n,), self._prompts(operation)) if operation.has_choices else 1

    def _prompts(self, operation: Operation) -> int:
        return _prompts_in(self.prompt) + _prompts_in(self.prompt_embeds) if operation is COMPLETIONS else 1

    @property
    def prefix(self) -> int:
        """A hash of the conversation's beginning, the same in every process; 0 for a conversation that is too short."""
        prefix = prefix_of(self.messages or self.input or self.prompt)
        if prefix and (self.cache_salt or self.prompt_cache_key):  # what the caller has divided is found by it alone
            return crc32(self.prompt_cache_key, crc32(self.cache_salt, prefix))
        return prefix

    def own_cache(self, cache: PromptCache) -> msgspec.Raw:
        """Returns the caller's own division of the provider's prompt cache, as JSON; empty where it has none."""
        return self.cache_salt if cache is PromptCache.VLLM else self.prompt_cache_key

    def floats_for_bounds(self) -> Sequence[tuple[str, float]]:
        """Returns the bounds that were written as 5.0, by name. They are passed on as 5: providers may refuse 5.0."""
        tokens = self.max_tokens
        completion = self.max_completion_tokens
        output = self.max_output_tokens
        if float not in (tokens.__class__, completion.__class__, output.__class__):
            return ()
        named = (("max_tokens", tokens), ("max_completion_tokens", completion), ("max_output_tokens", output))
        return [(name, bound) for name, bound in named if isinstance(bound, float)]


class CacheMember(NamedTuple):
    """A member of the body that keeps one organisation's cached prompts from another one's."""

    name: str
    #: Of letters, digits, - and _.
    value: str
    #: Whether the caller's body has the member as well.
    replaces: bool


_MEMBERS = {PromptCache.VLLM: "cache_salt", PromptCache.OPENAI: "prompt_cache_key"}
_FORMS_OF_OPENAI = (Form.CHAT, Form.RESPONSES)  # the others refuse the member
_MOST_SALTS = 10_000


class CacheSalts:
    """The organisations' divisions of providers' prompt caches.

    A salt is an HMAC of the organisation under a secret of this installation, so it cannot be guessed outside. A
    caller's own salt divides its organisation's part further; it can never be another organisation's.
    """

    def __init__(self, secret: bytes | None = None) -> None:
        """secret: None makes one for this process; others and later ones do not find its cached prompts then."""
        self._secret = os.urandom(32) if secret is None else secret
        self._salts: dict[tuple[str, str], CacheMember] = {}

    def member(
        self, cache: PromptCache, operation: Operation, organisation: str, fields: RequestFields
    ) -> CacheMember | None:
        """Returns the member for a provider with such a cache; None if it takes none."""
        if cache is PromptCache.SHARED or (cache is PromptCache.OPENAI and operation.form not in _FORMS_OF_OPENAI):
            return None
        own = bytes(fields.own_cache(cache))
        if own:
            salt = self._salt(cache, organisation, "" if own == b"null" else own.decode())
            return CacheMember(_MEMBERS[cache], salt, replaces=True)
        known = self._salts.get((cache, organisation))
        if known is None:
            known = CacheMember(_MEMBERS[cache], self._salt(cache, organisation, ""), replaces=False)
            if len(self._salts) >= _MOST_SALTS:  # they are worked out again
                self._salts.clear()
            self._salts[cache, organisation] = known
        return known

    def _salt(self, cache: PromptCache, organisation: str, own: str) -> str:
        digest = hmac.digest(self._secret, _encoder.encode([cache.value, organisation, own]), "sha256")
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")


_decoder = msgspec.json.Decoder(RequestFields)
_list = msgspec.json.Decoder(list[msgspec.Raw])
_texts = msgspec.json.Decoder(list[str])
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encoder = msgspec.json.Encoder()
# msgspec's messages name Python's types; callers write JSON.
_PYTHON_WORD = re.compile(r"int \| float|\w+")
_JSON_WORDS = {"int | float": "number", "int": "integer", "float": "number", "str": "string", "bool": "boolean"}
_MODEL = re.compile(rb'"model"\s*:\s*"([^"\\]*)"')
_USAGE = msgspec.Raw(b'{"include_usage":true}')


def read(body: bytes) -> RequestFields:
    """Returns the fields of a body.

    Raises errors.InvalidRequest, which names the field that is wrong and quotes no text of the caller's.
    """
    try:
        str(body, "utf-8")  # msgspec does not validate the text of members that it skips
        fields = _decoder.decode(body)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        what = _PYTHON_WORD.sub(lambda found: _JSON_WORDS.get(found[0], found[0]), what)
        param = where.rstrip("`") or ("model" if "`model`" in what else None)
        raise InvalidRequest(f"The request is not valid: {what}.", param=param) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidRequest("The request's body is not a JSON object.") from None
    if fields.background:  # it has no usage when it is answered, and goes on when its caller has left
        raise InvalidRequest(
            "`background` is not possible here: what it uses could not be counted.", param="background"
        )
    for name, bound in fields.floats_for_bounds():
        if not bound.is_integer():
            raise InvalidRequest(f"The request is not valid: `{name}` is not a whole number.", param=name)
    return fields


def _prompts_in(prompt: msgspec.Raw) -> int:
    """Returns how many prompts a member holds: each text and each list in it is one, a list of token ids is one."""
    data = memoryview(prompt)
    if not data or bytes(data[:1]) != b"[":
        return min(len(data), 1)
    if len(data) > _LARGE_BYTES:
        return _prompts_in_large(bytes(prompt))
    parts = _list.decode(prompt)
    return sum(bytes(memoryview(part)[:1]) in (b'"', b"[") for part in parts) or 1


def _prompts_in_large(prompt: bytes) -> int:
    """Returns the same for a long list, without an object for each of millions of parts.

    Raises errors.InvalidRequest for more than MOST_PROMPTS, and for texts and lists in one list.
    """
    first = prompt[1:256].lstrip()[:1]
    if first == b"[":
        count = prompt.count(b"[") - 1
    elif first == b'"':
        # A text has two quotes that are not escaped, and at least one where it ends in an escaped backslash.
        count = (prompt.count(b'"') - prompt.count(b'\\"')) // 2
    else:
        return 1
    if count > MOST_PROMPTS:
        raise InvalidRequest(f"The request has more than {MOST_PROMPTS} prompts: send several requests.")
    if first == b"[":
        return count
    try:
        return len(_texts.decode(prompt))
    except msgspec.ValidationError:
        raise InvalidRequest("The request is not valid: its list of prompts holds texts and others.") from None


def _renamed(body: bytes, before: str, after: str) -> bytes | None:
    """Returns the body with another model and every other byte unchanged; None if its position is not certain.

    The body has been parsed, so it has a member `model`. If no character is written as \\u, the member's name can only
    be written as it is; if that occurs once, it is the member.
    """
    if body.count(b'"model"') != 1 or b"\\u" in body:
        return None
    found = _MODEL.search(body)
    if found is None or found[1] != before.encode():
        return None
    return b"%b%b%b" % (body[: found.start(1) - 1], _encoder.encode(after), body[found.end(1) + 1 :])


def for_provider(
    body: bytes,
    fields: RequestFields,
    operation: Operation,
    model: str,
    *,
    takes_options: bool = True,
    cache: CacheMember | None = None,
) -> bytes:
    """Returns the body with the provider's name of the model, and with `include_usage` for a stream.

    Where neither changes anything, the body is passed on byte for byte. If it is parsed and a member is there twice,
    the last one counts, as providers read it, and only that one is passed on. takes_options: False for a provider that
    refuses `stream_options`, which it does not get then. cache: what keeps the organisation's cached prompts apart.
    Raises errors.InvalidRequest for what is nested so deeply that only `read`, which is called with more of the stack
    left, could parse it.
    """
    # Streams carry usage only if it is requested, and the gateway needs it for every stream. A caller who has not
    # requested it does not get to see the usage chunk, see respond.py.
    is_with_usage = fields.stream and operation.has_stream_options
    needs_usage = is_with_usage and takes_options and not fields.requests_usage
    has_refused = (
        is_with_usage
        and not takes_options
        and (fields.stream_options is not None or b'"stream_options"' in body)  # which may be null
    )
    bounds = fields.floats_for_bounds()
    if not needs_usage and not has_refused and not bounds and (cache is None or not cache.replaces):
        # Replacing one name is much cheaper than parsing and writing a long conversation.
        renamed = body if model == fields.model else _renamed(body, fields.model, model)
        if renamed is not None:
            return renamed if cache is None else _with_first(renamed, cache)
    members = _members_of(body, fields)
    for name, bound in bounds:
        members[name] = msgspec.Raw(b"%d" % bound)
    members["model"] = msgspec.Raw(_encoder.encode(model))
    if has_refused:
        members.pop("stream_options", None)
    if needs_usage:
        members["stream_options"] = _with_usage(members.get("stream_options"), fields)
    if cache is not None:
        members[cache.name] = msgspec.Raw(_encoder.encode(cache.value))
    return _encoder.encode(members)


def _with_first(body: bytes, member: CacheMember) -> bytes:
    """Returns an object that is not empty with one more member before all others."""
    begin, _, rest = body.partition(b"{")
    return b'%b{"%b":"%b",%b' % (begin, member.name.encode(), member.value.encode(), rest)


def _members_of(body: bytes, fields: RequestFields) -> dict[str, msgspec.Raw]:
    """Returns the body's members, unread. Raises errors.InvalidRequest for too many, or if nested too deeply."""
    _check_others(body, fields)
    try:
        return _members.decode(body)
    except RecursionError:
        raise InvalidRequest("The request's body is nested too deeply.") from None


def _check_others(body: bytes, fields: RequestFields) -> None:
    """Raises errors.InvalidRequest where a million small members would be objects each."""
    if len(body) <= MOST_OTHER_BYTES:
        return
    read = (fields.messages, fields.prompt, fields.prompt_embeds, fields.input, fields.tools)
    if len(body) - sum(len(memoryview(member)) for member in read) > MOST_OTHER_BYTES:
        raise InvalidRequest(
            "The request's members besides `messages`, `prompt`, `input` and `tools` are together longer than "
            f"{MOST_OTHER_BYTES} bytes."
        )


def has_other_stream_options(body: bytes, fields: RequestFields) -> bool:
    """Returns whether the caller's `stream_options` have members besides `include_usage`, which may be refused."""
    if fields.stream_options is None:
        return False
    return _members.decode(_members_of(body, fields)["stream_options"]).keys() != {"include_usage"}


def _with_usage(options: msgspec.Raw | None, fields: RequestFields) -> msgspec.Raw:
    """Returns the caller's `stream_options` with a request for usage. Its other members stay as they came."""
    if fields.stream_options is None or options is None:
        return _USAGE
    inner = _members.decode(options)
    inner["include_usage"] = msgspec.Raw(b"true")
    return msgspec.Raw(_encoder.encode(inner))
