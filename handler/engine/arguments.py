"""Makes vLLM's command line from the environment. Every flag of its parser can be set by its UPPER_SNAKE name.

Pure: works on any `argparse` parser and any mapping; `vllm_parts` brings vLLM's.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from handler.errors import ConfigurationError

# Names that users know from the official worker and from elsewhere, and the flag each one sets.
HISTORICAL_NAMES = {
    "MODEL_NAME": "model",
    "MODEL_REVISION": "revision",
    "TOKENIZER_NAME": "tokenizer",
    "OPENAI_SERVED_MODEL_NAME_OVERRIDE": "served_model_name",
    "CUSTOM_CHAT_TEMPLATE": "chat_template",
}
EXTRA_ARGS_NAME = "VLLM_EXTRA_ARGS"
PREFIX = "VLLM_"
SECRET = re.compile(r"(^|_)(token|key|secret|password)$", re.IGNORECASE)
TRUE_WORDS = frozenset({"1", "true", "yes", "on"})
FALSE_WORDS = frozenset({"0", "false", "no", "off"})
# How alike a name must be to a flag's before it counts as a slip. The prefix makes a slip more likely.
LIKENESS, LIKENESS_PREFIXED = 0.84, 0.7


@dataclass(frozen=True)
class Setting:
    """One flag's value."""

    flag: str
    #: As text.
    value: str
    #: The variable that it came from, or `default`.
    source: str

    def masked(self) -> str:
        """Returns the value, or asterisks where the flag's name marks it as a secret."""
        return "********" if SECRET.search(self.flag) else self.value


@dataclass(frozen=True)
class CommandLine:
    """vLLM's command line as the environment describes it."""

    settings: tuple[Setting, ...]
    #: The extra arguments as written.
    extra: tuple[str, ...]
    #: About names that look like slips.
    warnings: tuple[str, ...]

    def argv(self, parser: argparse.ArgumentParser) -> list[str]:
        """Returns the arguments for `parser`; raises ConfigurationError naming a variable that cannot be written."""
        flags = flags_of(parser)
        return [token for setting in self.settings for token in _tokens(flags[setting.flag], setting)] + [*self.extra]


def flags_of(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Returns every long option by its snake_case name, except help and version."""
    found: dict[str, argparse.Action] = {}
    for action in parser._actions:
        long_options = [option for option in action.option_strings if option.startswith("--")]
        if long_options and not isinstance(action, argparse._HelpAction | argparse._VersionAction):
            found[long_options[0].removeprefix("--").replace("-", "_")] = action
    return found


def command_line(
    parser: argparse.ArgumentParser,
    environment: Mapping[str, str],
    defaults: Mapping[str, str],
    known_names: Collection[str] = (),
) -> CommandLine:
    """Reads `environment` against the flags of `parser`.

    Of several names of a flag the strongest wins: its own, its historical name, its name with the prefix `VLLM_`, then
    `defaults`. VLLM_EXTRA_ARGS comes last on the command line and wins over all. `known_names` are vLLM's own variables
    that look like flags. An empty value counts as not set.
    """
    flags = flags_of(parser)
    names = _names(flags, known_names)
    given = {name: value.strip() for name, value in environment.items() if value.strip()}
    settings: dict[str, Setting] = {}
    warnings: list[str] = []
    for name, flag in names.items():
        if name not in given:
            continue
        if flag not in settings:
            settings[flag] = Setting(flag, given[name], name)
        elif settings[flag].value != given[name]:
            warnings.append(f"{name} is ignored: {settings[flag].source} sets --{flag.replace('_', '-')} too, and wins")
    for flag, value in defaults.items():
        settings.setdefault(flag, Setting(flag, value, "default"))
    warnings.extend(_slips(given, names, known_names))
    return CommandLine(tuple(settings.values()), _extra(given), tuple(warnings))


def _names(flags: Iterable[str], known_names: Collection[str]) -> dict[str, str]:
    """Returns the flag of each variable name, the strongest name of a flag first."""
    flags = list(flags)
    own = {flag.upper(): flag for flag in flags}
    historical = {name: flag for name, flag in HISTORICAL_NAMES.items() if flag in flags}
    prefixed = {PREFIX + flag.upper(): flag for flag in flags if PREFIX + flag.upper() not in known_names}
    return own | historical | prefixed


def _extra(given: Mapping[str, str]) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(given.get(EXTRA_ARGS_NAME, "")))
    except ValueError as error:
        raise ConfigurationError(f"{EXTRA_ARGS_NAME} cannot be split into arguments: {error}") from error


def _slips(given: Iterable[str], names: Mapping[str, str], known_names: Collection[str]) -> Iterator[str]:
    """Yields a warning for each variable that is not read and is nearly the name of a flag."""
    for name in given:
        if name in names or name in known_names or name == EXTRA_ARGS_NAME:
            continue
        likeness = LIKENESS_PREFIXED if name.startswith(PREFIX) else LIKENESS
        candidates = names if name.startswith(PREFIX) else [known for known in names if not known.startswith(PREFIX)]
        if nearest := difflib.get_close_matches(name, candidates, n=1, cutoff=likeness):
            yield f"{name} is not a flag of this vLLM (removed or misspelt?); did you mean {nearest[0]}?"


def _tokens(action: argparse.Action, setting: Setting) -> list[str]:
    option = next(option for option in action.option_strings if option.startswith("--"))
    if action.nargs == 0:
        return _switch(action, option, setting)
    if action.nargs in ("*", "+") or isinstance(action.nargs, int):
        return [option, *_items(setting)]
    if isinstance(action, argparse._AppendAction):
        return [f"{option}={item}" for item in _items(setting)]
    return [f"{option}={setting.value}"]


def _switch(action: argparse.Action, option: str, setting: Setting) -> list[str]:
    word = setting.value.lower()
    if word not in TRUE_WORDS | FALSE_WORDS:
        raise ConfigurationError(
            f"{setting.source}={setting.masked()} sets the switch {option}: expected true or false",
            param=setting.source,
        )
    if word in TRUE_WORDS:
        return [option]
    negative = [other for other in action.option_strings if other.startswith("--no-")]
    return negative[:1]  # a plain switch has no negative form: false is its default


def _items(setting: Setting) -> list[str]:
    """Returns the items of a list, written as a JSON list, as one JSON object, or as words quoted like a shell's."""
    try:
        document = json.loads(setting.value)
    except json.JSONDecodeError:
        try:
            return shlex.split(setting.value)
        except ValueError as error:
            raise ConfigurationError(f"{setting.source} is not a list: {error}", param=setting.source) from error
    items = document if isinstance(document, list) else [document]
    return [item if isinstance(item, str) else json.dumps(item) for item in items]


def blame(command: CommandLine, parser: argparse.ArgumentParser, error: argparse.ArgumentError) -> str:
    """Returns the variable whose value the parser refused, and why."""
    flags = flags_of(parser)
    for setting in command.settings:
        if error.argument_name and any(
            option in error.argument_name.split("/") for option in flags[setting.flag].option_strings
        ):
            return f"{setting.source}={setting.masked()}: {error.message}"
    return f"vLLM refuses its flags: {error}"
