"""What of a request is an image's, audio's or video's data, and what only looks like it."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_service.domain.media import BYTES_PER_AUDIO_TOKEN, MOST_MEDIA, MOST_OBJECTS, TOKENS_PER_IMAGE, media_of
from vllm_service.domain.usage import BYTES_PER_TOKEN, estimated_prompt_tokens

DATA = base64.b64encode(bytes(range(256)) * 400).decode()
PNG = "data:image/png;base64,"


def image(data: str = DATA, begin: str = PNG) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": begin + data}}


def audio(data: str = DATA) -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}


def chat(*parts: object, **members: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": "What is this?"}, *parts]
    return {"model": "m", "messages": [{"role": "user", "content": content}], **members}


def responses(*parts: object) -> dict[str, Any]:
    return {"model": "m", "input": [{"role": "user", "content": list(parts)}]}


def encoded(document: object) -> bytes:
    return json.dumps(document).encode()


AUDIO_TOKENS = max(TOKENS_PER_IMAGE, len(DATA) // BYTES_PER_AUDIO_TOKEN)
IN_PLACE: dict[str, tuple[object, int]] = {
    "an image": (chat(image()), 1),
    "an image between texts": (chat(image(), {"type": "text", "text": "x" * 1000}), 1),
    "three images": (chat(image(), image(DATA[:400]), image()), 3),
    "with a detail": (chat({"type": "image_url", "image_url": {"detail": "low", "url": PNG + DATA}}), 1),
    "another type": (chat(image(begin="data:image/svg+xml;charset=utf-8;base64,")), 1),
    "in capitals": (chat(image(begin="data:IMAGE/JPEG;base64,")), 1),
    "an address as it is": (chat({"image_url": PNG + DATA}), 1),
    "of responses": (responses({"type": "input_image", "image_url": PNG + DATA}), 1),
    "of a tool": ({"input": [{"type": "function_call_output", "output": [{"image_url": PNG + DATA}]}]}, 1),
    "audio": (chat(audio()), 1),
    "audio, its format first": (chat({"input_audio": {"format": "mp3", "data": DATA}}), 1),
    "audio by address": (chat({"audio_url": {"url": "data:audio/wav;base64," + DATA}}), 1),
    "video": (chat({"video_url": {"url": "data:video/mp4;base64," + DATA}}), 1),
}


@pytest.mark.parametrize("name", IN_PLACE)
@pytest.mark.parametrize("write", [encoded, lambda document: json.dumps(document, separators=(",", ":")).encode()])
def test_data_in_its_place_counts_as_a_medium(name: str, write: Callable[[object], bytes]) -> None:
    document, count = IN_PLACE[name]
    body = write(document)
    data_bytes = DATA_BYTES.get(name, len(DATA))
    assert media_of(body) == (count * TOKENS_PER_IMAGE, data_bytes)
    text = (len(body) - data_bytes) // BYTES_PER_TOKEN
    assert estimated_prompt_tokens(body) == text + count * TOKENS_PER_IMAGE


DATA_BYTES = {"three images": 2 * len(DATA) + 400}
TEXT = "The quick brown fox. " * 10_000
LOOKS_LIKE_IT: dict[str, object] = {
    "a text that begins so": chat({"type": "text", "text": ";base64," + TEXT}),
    "a content that begins so": {"model": "m", "messages": [{"role": "user", "content": PNG + DATA}]},
    "a text part": chat({"type": "text", "text": PNG + DATA}),
    "a text of a part's JSON": chat({"type": "text", "text": json.dumps(image())}),
    "a text of responses": responses({"type": "input_text", "text": PNG + DATA}),
    "a tool's schema": chat(tools=[{"function": {"parameters": image()}}]),
    "a tool's list": chat(tools=[{"messages": [{"content": [image()]}]}]),
    "arguments of a call": {
        "messages": [{"tool_calls": [{"function": {"arguments": [image()]}}]}, *chat()["messages"]]
    },
    "a member of the body": {**chat(), "documents": [{"content": [image()]}], "image_url": {"url": PNG + DATA}},
    "a member's name": chat({PNG + DATA: 1}),
    "another member of a part": chat({"type": "image_url", "image_uri": {"url": PNG + DATA}, "x_url": 1}),
    "a file": chat({"type": "file", "file": {"file_data": "data:application/pdf;base64," + DATA}, "x_url": 1}),
    "a prompt": {"model": "m", "prompt": [PNG + DATA, "input_audio", "_url"]},
    "inputs": {"model": "m", "input": [PNG + DATA, "_url"]},
}


@pytest.mark.parametrize("name", LOOKS_LIKE_IT)
def test_the_same_bytes_elsewhere_are_text(name: str) -> None:
    body = encoded(LOOKS_LIKE_IT[name])
    assert estimated_prompt_tokens(body) == len(body) // BYTES_PER_TOKEN


NO_DATA: dict[str, object] = {
    "text": image(TEXT),
    "text behind data": image(DATA + " " + TEXT),
    "one letter too many": image(DATA[:70_000] + "-" + DATA),
    "spaces": image(DATA.replace("A", " ")),
    "lines": image(DATA.replace("A", "\n")),
    "padding in the middle": image("AAA=" + DATA),
    "too much padding": image(DATA + "==="),
    "of another alphabet": image(DATA.replace("/", "_")),
    "of text's type": image(begin="data:text/plain;base64,"),
    "of no type": image(begin="data:;base64,"),
    "audio's type for an image": image(begin="data:audio/wav;base64,"),
    "an image for audio": {"audio_url": {"url": PNG + DATA}},
    "text as audio": audio(TEXT),
    "a data URL as audio": audio(PNG + DATA),
    "a mark of ours": image("=medium-0="),
    "a very long type": image(begin="data:image/" + "x" * 2_000 + ";base64,"),
}


@pytest.mark.parametrize("name", NO_DATA)
def test_what_is_no_data_in_the_place_of_data_is_text_and_still_a_medium(name: str) -> None:
    body = encoded(chat(NO_DATA[name]))
    assert media_of(body).data_bytes == 0
    assert estimated_prompt_tokens(body) >= len(body) // BYTES_PER_TOKEN


def test_data_in_a_text_is_not_taken_for_that_of_a_forged_part() -> None:
    """The mark of the data that was taken out of the text, written by the caller in the place of an image."""
    body = encoded(chat(image("=medium-0="), {"type": "text", "text": PNG + DATA}))
    assert estimated_prompt_tokens(body) >= len(body) // BYTES_PER_TOKEN
    escaped = body.replace(b"=medium-0=", b"\\u003dmedium-0=")
    assert estimated_prompt_tokens(escaped) >= len(escaped) // BYTES_PER_TOKEN


def test_escaped_slashes_are_data() -> None:
    body = encoded(chat(image())).replace(b"/", b"\\/")
    assert media_of(body) == (TOKENS_PER_IMAGE, len(DATA.replace("/", "\\/")))


@pytest.mark.parametrize(("written", "instead"), [(b";base64", b"\\u003bbase64"), (b"iVBO", b"\\u0069VBO")])
def test_what_is_escaped_otherwise_is_text(written: bytes, instead: bytes) -> None:
    body = encoded(chat(image("iVBO" + DATA))).replace(written, instead)
    assert estimated_prompt_tokens(body) >= len(body) // BYTES_PER_TOKEN


def test_an_image_elsewhere_counts_as_one() -> None:
    body = encoded(chat(image(begin="https://there.test/picture.png", data="")))
    assert estimated_prompt_tokens(body) == len(body) // BYTES_PER_TOKEN + TOKENS_PER_IMAGE


ADDRESS = image(begin="https://there.test/picture.png", data="")
HIDDEN: dict[str, bytes] = {
    "escapes": encoded(chat(*[ADDRESS] * 100))
    .replace(b"image_url", b"image\\u005furl")
    .replace(b'"url"', b'"\\u0075rl"'),
    "many objects": encoded(chat(*[ADDRESS] * 100, {"type": "text", "text": "{" * (MOST_OBJECTS + 1)})),
    "both": encoded(chat(*[ADDRESS] * 100, *[{}] * MOST_OBJECTS)).replace(b"image_url", b"image\\u005Furl"),
    "many beginnings": encoded(chat(*[ADDRESS] * 100, {"type": "text", "text": ";base64," * 2 * (MOST_MEDIA + 1)})),
    "a forged mark": encoded(chat(*[ADDRESS] * 100, {"type": "text", "text": "=medium-0="})),
    "a member of another shape": encoded({"messages": [{"content": [ADDRESS] * 100, "output": {}}]}),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_no_spelling_hides_an_image_elsewhere(name: str) -> None:
    body = HIDDEN[name]
    assert estimated_prompt_tokens(body) >= len(body) // BYTES_PER_TOKEN + 100 * TOKENS_PER_IMAGE


def test_long_audio_counts_by_its_length() -> None:
    body = encoded(chat(audio("A" * 4_000_000)))
    assert media_of(body) == (4_000_000 // BYTES_PER_AUDIO_TOKEN, 4_000_000)


@given(st.text(alphabet='"\\{}[]:,;=A/ \n', max_size=60), st.integers(0, 40))
def test_no_bytes_of_a_text_are_ever_data(text: str, at: int) -> None:
    tricky = text[:at] + PNG + "A" * 5_000 + text[at:]
    parts = {"type": "text", "text": tricky}, {"type": "text", "text": 'input_audio": {"data": "' + tricky}
    assert media_of(encoded(chat(*parts, {"type": "text", "text": json.dumps(parts)}))).data_bytes == 0


LARGE: dict[str, bytes] = {
    "many small images": encoded(chat(*[image("AAAA")] * 150_000)),
    "many beginnings": encoded(chat({"type": "text", "text": "_url" + ";base64," * 2_000_000})),
    "many data URLs in a text": encoded(chat({"type": "text", "text": f'_url"{PNG}"' * 500_000})),
    "many audio members": encoded(chat({"type": "text", "text": "input_audio" * 1_500_000})),
    "many objects beside an image": encoded(chat(image(), *[{}] * 4_000_000)),
    "many addresses": encoded(chat(*[{"image_url": ""}] * 900_000)),
    "no end of a string": b'[[_url "data:image/png;base64,' + b"A" * 18_000_000,
    "deeply nested": b'{"messages":[{"content":' + b"[" * 9_000_000 + b"_url",
}


@pytest.mark.parametrize("name", LARGE)
def test_a_large_body_of_tricks_is_text_and_takes_linear_time(name: str) -> None:
    """Each is compared with reading one image of its size: the bar is wide, for what it has to find is quadratic time.

    One image is skipped at the speed of memory, and machines differ by ten times in how much slower a scan is.
    Quadratic time would be thousands of times slower.
    """
    body = LARGE[name]
    picture = encoded(chat(image("A" * len(body))))
    assert estimated_prompt_tokens(body) >= len(body) // BYTES_PER_TOKEN
    assert _seconds(body) < 50 * _seconds(picture) + 0.1


def _seconds(body: bytes) -> float:
    spent = []
    for _ in range(3):
        began = time.process_time()
        estimated_prompt_tokens(body)
        spent.append(time.process_time() - began)
    return min(spent)


def test_beyond_the_bounds_all_is_text() -> None:
    most = encoded(chat(*[image("AAAA")] * MOST_MEDIA))
    assert media_of(most).data_bytes == 4 * MOST_MEDIA
    beyond = encoded(chat(*[image("AAAA")] * (2 * MOST_MEDIA + 2)))
    assert media_of(beyond) == (2 * TOKENS_PER_IMAGE * (2 * MOST_MEDIA + 2), 0)  # by its type, too
    assert media_of(encoded(chat({"image_url": PNG + DATA}, *[{}] * MOST_OBJECTS))) == (TOKENS_PER_IMAGE, 0)
