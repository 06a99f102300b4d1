"""Checks a chat template before the model is loaded: vLLM would start with a wrong one and refuse every chat."""

from __future__ import annotations

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class _Generation(Extension):
    """Reads `{% generation %}`, with which templates mark the assistant's own words."""

    tags = {"generation"}  # noqa: RUF012 - as the base class declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def fault_of(template: str) -> str | None:
    """Returns why the text is no Jinja template, with the line; None for one that can be read."""
    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols", _Generation])
    try:
        environment.from_string(template)
    except TemplateError as error:
        return f"line {getattr(error, 'lineno', '?')}: {error.message}"
    return None
