"""Checks a chat template before the model is loaded: vLLM would start with a wrong one and refuse every chat."""

from __future__ import annotations

from pathlib import Path

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

# A longer text is a template, not the name of a file.
LONGEST_NAME = 4096


class _Generation(Extension):
    """Reads `{% generation %}`, with which templates mark the assistant's own words."""

    tags = {"generation"}  # noqa: RUF012 - as the base class declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def check_text(template: str | None) -> None:
    """Raises ValueError for the name of a file that holds no text. Anything else vLLM's own check explains."""
    try:
        if template and len(template) < LONGEST_NAME and Path(template).is_file():
            Path(template).read_text(encoding="utf-8")
    except (UnicodeDecodeError, PermissionError) as error:
        raise ValueError(f"the chat template {template} cannot be read: {error}") from error
    except (OSError, ValueError):  # no name of a file: the template itself
        return


def fault_of(template: str) -> str | None:
    """Returns why the text is no Jinja template, with the line; None for one that can be read."""
    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols", _Generation])
    try:
        environment.from_string(template)
    except TemplateError as error:
        return f"line {getattr(error, 'lineno', '?')}: {error.message}"
    return None
