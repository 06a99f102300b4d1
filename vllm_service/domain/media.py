"""Images, audio and video in a request: where they are, how long their data is, and how many tokens they are taken for.

Only what is a medium's data counts as one: base64 in its own alphabet, of the medium's type, as the value of the member
that holds it, in a part of a message's content. The same bytes anywhere else are text, and are counted as text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

#: An image, whatever its size: providers scale large ones down. OpenAI counts 85 + 170 for each tile of 512 pixels,
#: which is 765 for 1024 x 1024; Anthropic at most 1,600; Gemini 258 for each tile of 768 pixels (2026-11).
TOKENS_PER_IMAGE = 800
#: Audio and video are counted by their length, and as an image at least. A second of audio is 10 tokens at OpenAI and
#: 32 at Gemini (2026-11); as base64 it is 10,700 bytes of an MP3 at 64 kbit/s, or 42,700 of 16 bit PCM at 16 kHz.
BYTES_PER_AUDIO_TOKEN = 1024
#: A body with more of them is counted as text: to look at so many takes about a millisecond.
MOST_MEDIA = 250
#: The same holds for a body with more objects, or values, beside the data: reading them takes the event loop's time.
MOST_OBJECTS = 20_000
MOST_VALUES = 100_000
_LONGEST_TYPE_BYTES = 128
_CHUNK_BYTES = 65_536
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_DATA_URL = b";base64,"
_AUDIO = b"input_audio"
_BEFORE_DATA = re.compile(rb'"data:(?:image|audio|video)\\?/[\w.+-]+(?:;[\w.=+-]+)*;base64,', re.IGNORECASE)
_BEFORE_AUDIO = re.compile(rb'input_audio"W:W\{W(?:"format"W:W"\w{0,32}"W,W)?"data"W:W"'.replace(b"W", rb"\s{0,99}"))
#: Stands for data that has been taken out. `=` is no data, so nothing that is left can be taken for it.
_MARK = b"=medium-%d="
_MARKED = re.compile(rb'=medium-(\d+)="\Z')
_OBJECTS = re.compile(rb"\s*\[\s*\{")
#: A letter, digit or _ that is written as \\u. No encoder does so: it hides a member from a search for bytes.
_SPELLED_OUT = re.compile(rb"\\u00(?:3[0-9]|[46][0-9A-Fa-f]|5[0-9AFaf]|7[0-9Aa])")
#: Looking for such a letter among other escapes takes 6 ns a byte. A longer body with any escape is taken for one.
_MOST_SEARCHED_BYTES = 2**21
_NONE = msgspec.Raw(b"")


class Media(NamedTuple):
    """The media of a request."""

    tokens: int
    #: How many bytes of the body are their data.
    data_bytes: int


NO_MEDIA = Media(0, 0)


class _Source(msgspec.Struct, gc=False):
    url: msgspec.Raw = _NONE
    data: msgspec.Raw = _NONE


class _Part(msgspec.Struct, gc=False):
    image_url: msgspec.Raw = _NONE
    audio_url: msgspec.Raw = _NONE
    video_url: msgspec.Raw = _NONE
    input_audio: msgspec.Raw = _NONE


class _Message(msgspec.Struct, gc=False):
    content: list[_Part | str | float | None] | str | float | None = None
    #: Of a tool's result, in responses.
    output: list[_Part | str | float | None] | str | None = None


class _Body(msgspec.Struct, gc=False):
    messages: msgspec.Raw = _NONE
    input: msgspec.Raw = _NONE


_body = msgspec.json.Decoder(_Body)
_messages = msgspec.json.Decoder(list[_Message])
_source = msgspec.json.Decoder(_Source)


def is_spelled_out(body: bytes) -> bool:
    """Returns whether letters may be written as \\u, so that members' names are not found by their bytes."""
    return b"\\u00" in body and (len(body) > _MOST_SEARCHED_BYTES or _SPELLED_OUT.search(body) is not None)


def media_of(body: bytes) -> Media:
    """Returns the media of a request's JSON. Takes time in proportion to its length.

    A body that an exact look would take too long for is text as a whole, and has as many images as it may name at most.
    """
    taken = _without_data(body)
    if taken is None:
        return _at_most(body)
    text, lengths = taken
    is_large = text.count(b"{") > MOST_OBJECTS or text.count(b",") > MOST_VALUES
    if is_large or text.count(b"=medium-") != len(lengths):
        return _at_most(body)
    tokens = data_bytes = 0
    try:
        for kind, begin, value in _values(text):
            marked = _MARKED.search(value[-_LONGEST_TYPE_BYTES:]) if value[: len(begin)].lower() == begin else None
            length = 0 if marked is None else lengths[int(marked[1])]
            data_bytes += length
            tokens += TOKENS_PER_IMAGE if kind == "image" else max(TOKENS_PER_IMAGE, length // BYTES_PER_AUDIO_TOKEN)
    except (ValueError, RecursionError):  # a member of another shape than here, which a provider may take all the same
        return _at_most(body)
    return Media(tokens, data_bytes)


def _at_most(body: bytes) -> Media:
    """Returns an image for each text that may be the name of a member with one. Data is not told from other text."""
    hidden = body.count(b"\\u00") if is_spelled_out(body) else 0
    return Media(TOKENS_PER_IMAGE * (body.count(b'_url"') + hidden), 0)


#: The kind of a medium, how its JSON begins if its data is in the body, and the JSON, with a mark instead of the data.
_Value = tuple[str, bytes, bytes]


def _values(text: bytes) -> Iterator[_Value]:
    """Yields each value that holds a medium, or the address of one, in its place. Raises ValueError, RecursionError."""
    body = _body.decode(text)
    for message in (*_messages_in(body.messages), *_messages_in(body.input)):
        for parts in (message.content, message.output):
            if isinstance(parts, list):
                for part in parts:
                    if isinstance(part, _Part):
                        yield from _values_of(part)


def _messages_in(value: msgspec.Raw) -> list[_Message]:
    """Returns the messages of a list of objects; none for any other value, such as a text."""
    return _messages.decode(value) if _OBJECTS.match(memoryview(value)) else []


def _values_of(part: _Part) -> Iterator[_Value]:
    for kind, value in (("image", part.image_url), ("audio", part.audio_url), ("video", part.video_url)):
        if value:
            yield kind, f'"data:{kind}'.encode(), _member(value, "url")
    if part.input_audio:
        yield "audio", b'"=medium-', _member(part.input_audio, "data")


def _member(value: msgspec.Raw, name: str) -> bytes:
    """Returns the JSON of the member that holds the data. In responses the value is it itself."""
    if bytes(memoryview(value)[:1]) != b"{":
        return bytes(value)
    return bytes(getattr(_source.decode(value), name))


def _without_data(body: bytes) -> tuple[bytes, list[int]] | None:
    """Returns the body with a mark instead of each run of base64 that may be a medium's, and how long these were.

    None: there are too many to look at.
    """
    pieces: list[bytes] = []
    lengths: list[int] = []
    copied = 0
    for looks, (begin, end) in enumerate(_strings(body)):
        if looks > 2 * MOST_MEDIA:  # an audio part names its type, too
            return None
        if end > begin and _is_base64(body, begin, end):
            pieces += body[copied:begin], _MARK % len(lengths)
            lengths.append(end - begin)
            copied = end
    return b"".join((*pieces, body[copied:])), lengths


def _strings(body: bytes) -> Iterator[tuple[int, int]]:
    """Yields where each string that may hold data begins to hold it, and where it ends; walks over each byte once."""
    end = 0
    while (at := _candidate(body, end)) >= 0:
        begin = _data_at(body, at)
        end = body.find(b'"', begin) if begin >= 0 else at + len(_DATA_URL)
        if end < 0:
            return
        yield (end if begin < 0 else begin), end


def _candidate(body: bytes, start: int) -> int:
    """Returns where the next text stands that announces data; -1 if there is none."""
    for window in range(start, len(body), _CHUNK_BYTES):
        until = window + _CHUNK_BYTES + len(_AUDIO)
        url_at = body.find(_DATA_URL, window, until)
        audio_at = body.find(_AUDIO, window, until if url_at < 0 else url_at)
        if audio_at >= 0 or url_at >= 0:
            return audio_at if audio_at >= 0 else url_at
    return -1


def _data_at(body: bytes, at: int) -> int:
    """Returns where the data begins; -1 if what is here does not belong to a medium."""
    if body.startswith(_AUDIO, at):
        found = _BEFORE_AUDIO.match(body, at)
        return -1 if found is None else found.end()
    quote = body.rfind(b'"', max(0, at - _LONGEST_TYPE_BYTES), at)
    # An escaped quote is in the middle of a text.
    if quote < 0 or body[quote - 1 : quote] == b"\\" or not _BEFORE_DATA.fullmatch(body, quote, at + len(_DATA_URL)):
        return -1
    return at + len(_DATA_URL)


def _is_base64(body: bytes, begin: int, end: int) -> bool:
    """Returns whether all of these bytes are base64. `/` may be escaped, as PHP writes it."""
    if body.find(b"\\", begin, end) >= 0:
        body, begin = body[begin:end].replace(b"\\/", b"/"), 0
        end = len(body)
    last = max(begin, end - 2)
    return not body[last:end].rstrip(b"=").translate(None, _BASE64) and all(
        # A chunk at a time stays in the processor's cache.
        not body[start : min(start + _CHUNK_BYTES, last)].translate(None, _BASE64)
        for start in range(begin, last, _CHUNK_BYTES)
    )
