"""Secrets are found in any case, cut, escaped or encoded; what is no secret stays."""

from __future__ import annotations

import random
import time

import pytest

from vllm_service.runpod.concealed import CONCEALED, conceal, secrets_in


@pytest.mark.parametrize(
    ("text", "secrets", "shown"),
    [
        ("key abcdefghij is wrong", ["abcdefghij"], f"key {CONCEALED} is wrong"),
        ("key ABCDEFGHIJ is wrong", ["abcdefghij"], f"key {CONCEALED} is wrong"),
        ("cut: abcdefgh...", ["abcdefghij-and-so-on"], f"cut: {CONCEALED}..."),
        ("short: ab12 ab123 ab12", ["ab12"], f"short: {CONCEALED} ab123 {CONCEALED}"),
        ("true 1 auto", ["true", "1", "auto", ""], "true 1 auto"),
        ('say "a\\nlong\\nvalue"', ["a\nlong\nvalue"], f'say "{CONCEALED}"'),
        ("both abcdefgh12345678 here", ["abcdefgh", "12345678"], f"both {CONCEALED} here"),
        ("nothing", [], "nothing"),
        ("", ["abcdefghij"], ""),
        ("İİ abcdefghij", ["abcdefghij"], f"i̇i̇ {CONCEALED}"),
    ],
)
def test_a_secret_and_its_parts_are_concealed(text: str, secrets: list[str], shown: str) -> None:
    assert conceal(text, secrets) == shown


def test_no_eight_characters_of_a_secret_remain_whatever_surrounds_them() -> None:
    draws = random.Random(4)
    for _ in range(300):
        secret = "".join(draws.choices('abAB01-_/+ \n"%é', k=draws.randint(8, 30)))
        text = "".join(draws.choices('abAB01-_/+ \n"%é', k=20)) + secret + secret[draws.randint(0, 7) :]
        shown = conceal(text, [secret])
        assert [part for at in range(len(secret) - 7) if (part := secret[at : at + 8]).lower() in shown.lower()] == []


def test_it_takes_time_in_proportion() -> None:
    began = time.perf_counter()
    conceal("a" * 4096, ["a" * 100_000, "ab" * 100_000])
    assert time.perf_counter() - began < 10


def test_the_secrets_of_a_body_are_its_environment_and_what_is_named_like_one() -> None:
    body = {
        "name": "shown",
        "env": {"A": "1st", "B": ["2nd"]},
        "template": {"env": {"C": "3rd"}, "image": "shown"},
        "password": "4th",
        "list": [{"accessToken": "5th"}, "shown"],
        "count": 3,
    }
    assert list(secrets_in(body)) == ["1st", "2nd", "3rd", "4th", "5th"]
    assert list(secrets_in(None)) == []
