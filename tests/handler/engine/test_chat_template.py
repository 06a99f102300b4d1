"""A chat template is checked before the model is loaded."""

from __future__ import annotations

import pytest

from handler.engine.chat_template import fault_of
from handler.settings import DEMO_MODEL_DIR


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.content }}{% endfor %}",
        "{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{% generation %}{{ m.content }}"
        "{% endgeneration %}{% endfor %}",
        "no braces at all",
        (DEMO_MODEL_DIR / "chat_template.jinja").read_text(),
    ],
)
def test_what_models_come_with_is_a_template(template: str) -> None:
    assert fault_of(template) is None


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for m in messages %}\n{{ m.content ", "line 2: unexpected end of template"),
        ("{% for m in messages %}", "line 1: "),
        ("{{ messages | no_such_filter }}", "No filter named 'no_such_filter'"),
        ("{% nosuch %}", "unknown tag 'nosuch'"),
    ],
)
def test_what_is_none_is_named_with_its_line(template: str, words: str) -> None:
    assert words in (fault_of(template) or "")
