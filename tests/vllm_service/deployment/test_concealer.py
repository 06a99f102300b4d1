"""No output of a deploy verb holds a secret, whoever repeats it, and no line steers the terminal."""

from __future__ import annotations

import json

import pytest

from vllm_service.deployment.concealer import LONGEST_LINE, Concealer

SECRET = "hf_sesame_open_0123"


@pytest.fixture
def concealer() -> Concealer:
    return Concealer([SECRET, ""])


def test_a_text_loses_the_secret_wherever_it_stands(concealer: Concealer) -> None:
    for text in (SECRET, f"a{SECRET}b{SECRET}", f"Bearer {SECRET}\n"):
        assert SECRET not in concealer.text(text)
    assert concealer.text("nothing of it") == "nothing of it"


def test_secrets_of_runpods_documents_are_learned_by_the_names_of_their_variables(concealer: Concealer) -> None:
    concealer.learn({"WANDB_API_KEY": "wb_0123456789", "MODEL_NAME": "org/name-0123", "HF_TOKEN": 7, "A_KEY": ""})
    assert "wb_0123456789" not in concealer.text("key wb_0123456789")
    assert concealer.text("org/name-0123") == "org/name-0123"
    nothing: list[object] = [None, [], "HF_TOKEN=x", 7]
    for environment in nothing:
        concealer.learn(environment)


def test_a_document_loses_secrets_in_texts_keys_and_lists(concealer: Concealer) -> None:
    document = {SECRET: [SECRET, {"a": (f"x{SECRET}", 1, None, True, 2.5)}], "b": "kept"}
    shown = concealer.document(document)
    assert SECRET not in json.dumps(shown)
    assert shown["b"] == "kept"
    assert next(iter(shown.values()))[1]["a"][1:] == [1, None, True, 2.5]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("plain", "plain"), ("two\nlines", "two lines"), ("red\x1b[31m\a", "red [31m"), ("end \r\n", "end"), ("", "")],
)
def test_a_line_cannot_steer_the_terminal(concealer: Concealer, text: str, expected: str) -> None:
    assert concealer.line(text) == expected


def test_a_line_without_end_is_cut(concealer: Concealer) -> None:
    assert len(concealer.line("x" * 10**7)) <= LONGEST_LINE


@pytest.mark.parametrize("shown", range(8, len(SECRET)))
def test_a_secret_at_the_cut_shows_no_eight_characters(concealer: Concealer, shown: int) -> None:
    line = concealer.line("." * (LONGEST_LINE - shown) + SECRET)
    assert SECRET[:8] not in line


def test_the_representation_holds_no_value(concealer: Concealer) -> None:
    assert SECRET not in repr(concealer)
