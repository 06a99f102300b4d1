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

from handler.engine.former_names import replacement
from handler.errors import ConfigurationError
from handler.settings import FOREIGN_NAMES, WORKER_NAMES
from handler.variables import FALSE_WORDS, TRUE_WORDS, values_set, with_home

# Names that users know from the official worker and from elsewhere, and the flag each one sets.
HISTORICAL_NAMES = {
    "MODEL_NAME": "model",
    "MODEL_REVISION": "revision",
    "TOKENIZER_NAME": "tokenizer",
    "OPENAI_SERVED_MODEL_NAME_OVERRIDE": "served_model_name",
    "CUSTOM_CHAT_TEMPLATE": "chat_template",
    "OPENAI_RESPONSE_ROLE": "response_role",
}
# Lists whose items may hold spaces: a value without quotes is one item.
SPACED_LISTS = frozenset({"served_model_name"})
# The names of flags under which the documentation has them.
FRIENDLY_NAMES = {"model": "MODEL_NAME", "revision": "MODEL_REVISION"}
DEFAULT = "default"
EXTRA_ARGS_NAME = "VLLM_EXTRA_ARGS"
PREFIX = "VLLM_"
# vLLM reads its file of flags only where the name follows as a word of its own.
CONFIG_FLAG = "config"
SECRET = re.compile(r"(^|_)(token|key|secret|password)$", re.IGNORECASE)
# A path below the home directory, alone or as the value of an option.
HOME_VALUE = re.compile(r"^(--[^=]+=)?(~(?:/.*)?)$")
# How alike a name must be to a flag's before it counts as a slip.
LIKENESS = 0.84


@dataclass(frozen=True)
class Setting:
    """One flag's value."""

    flag: str
    #: As text.
    value: str
    #: The variable that it came from, or DEFAULT.
    source: str

    @property
    def is_secret(self) -> bool:
        """True where the flag's name marks its value as a secret."""
        return bool(SECRET.search(self.flag))

    def masked(self) -> str:
        """Returns the value, or asterisks where it is a secret."""
        return "********" if self.is_secret else self.value


@dataclass(frozen=True)
class CommandLine:
    """vLLM's command line as the environment describes it."""

    settings: tuple[Setting, ...]
    #: The extra arguments as written.
    extra: tuple[str, ...]
    #: About names that look like slips.
    warnings: tuple[str, ...]

    @property
    def serves_demo_model(self) -> bool:
        """True where nothing names a model: then it is the default's."""
        return any(setting.flag == "model" and setting.source == DEFAULT for setting in self.settings)

    @property
    def given(self) -> list[Setting]:
        """The settings that variables make."""
        return [setting for setting in self.settings if setting.source != DEFAULT]

    @property
    def extra_flags(self) -> list[str]:
        """The flags that the extra arguments set."""
        words = (word.partition("=")[0] for word in self.extra if word.startswith("--"))
        return [word.removeprefix("--").removeprefix("no-").replace("-", "_") for word in words]

    def source_of(self, flag: str) -> str:
        """Returns the variable to correct where the flag is wrong: the one that sets it, or that would."""
        for setting in self.given:
            if setting.flag == flag:
                return setting.source
        return EXTRA_ARGS_NAME if flag in self.extra_flags else variable_of(flag)

    def argv(self, parser: argparse.ArgumentParser) -> list[str]:
        """Returns the arguments for `parser`; raises ConfigurationError naming a variable that cannot be written."""
        flags = flags_of(parser)
        return [token for setting in self.settings for token in _tokens(flags[setting.flag], setting)] + [*self.extra]


def variable_of(flag: str) -> str:
    """Returns the variable that sets the flag, by the name that the documentation gives it."""
    return FRIENDLY_NAMES.get(flag, flag.upper())


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
    given = values_set(environment)
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
        settings.setdefault(flag, Setting(flag, value, DEFAULT))
    warnings.extend(_without_effect(given, flags, names, known_names))
    return CommandLine(tuple(settings.values()), _extra(given), tuple(warnings))


def _names(flags: Iterable[str], known_names: Collection[str]) -> dict[str, str]:
    """Returns the flag of each variable name, the strongest name of a flag first."""
    flags = list(flags)
    own = {flag.upper(): flag for flag in flags if flag.upper() not in WORKER_NAMES}
    historical = {name: flag for name, flag in HISTORICAL_NAMES.items() if flag in flags}
    prefixed = {PREFIX + flag.upper(): flag for flag in flags if PREFIX + flag.upper() not in known_names}
    return own | historical | prefixed


def _extra(given: Mapping[str, str]) -> tuple[str, ...]:
    try:
        words = shlex.split(given.get(EXTRA_ARGS_NAME, ""))
    except ValueError as error:
        raise ConfigurationError(
            f"{EXTRA_ARGS_NAME} cannot be split into arguments: {error}", param=EXTRA_ARGS_NAME
        ) from error
    return tuple(HOME_VALUE.sub(lambda found: f"{found[1] or ''}{with_home(found[2])}", word) for word in words)


def _without_effect(
    given: Iterable[str], flags: Collection[str], names: Mapping[str, str], known_names: Collection[str]
) -> Iterator[str]:
    """Yields a warning for each variable that is not read and was a flag once, or is nearly the name of one."""
    for name in given:
        if name in names or name in known_names or name in {EXTRA_ARGS_NAME} | FOREIGN_NAMES | WORKER_NAMES:
            continue
        if advice := replacement(name, flags, PREFIX):
            yield f"{name} has no effect in this vLLM: {advice}"
            continue
        prefix = PREFIX if name.startswith(PREFIX) else ""  # a part that all share would make any two alike
        candidates = [known.removeprefix(prefix) for known in names if known.startswith(PREFIX) == bool(prefix)]
        if nearest := difflib.get_close_matches(name.removeprefix(prefix), candidates, n=1, cutoff=LIKENESS):
            yield f"{name} is not a flag of this vLLM (removed or misspelt?); did you mean {prefix}{nearest[0]}?"


def _tokens(action: argparse.Action, setting: Setting) -> list[str]:
    option = next(option for option in action.option_strings if option.startswith("--"))
    if action.nargs == 0:
        return _switch(action, option, setting)
    if action.nargs in ("*", "+") or isinstance(action.nargs, int):
        return _list(option, _items(setting), setting)
    if isinstance(action, argparse._AppendAction):
        return [f"{option}={item}" for item in _items(setting)]
    if setting.flag == CONFIG_FLAG:
        return [option, setting.value]
    return [f"{option}={setting.value}"]


def _list(option: str, items: list[str], setting: Setting) -> list[str]:
    """Returns the words of a list. An item that begins with a dash, as a random key may, would be read as an option."""
    if not any(item.startswith("-") for item in items):
        return [option, *items]
    if len(items) > 1:
        raise ConfigurationError(
            f"{setting.source}: of several items none can begin with a dash; leave those out, or name one alone",
            param=setting.source,
        )
    return [f"{option}={items[0]}"]


def _switch(action: argparse.Action, option: str, setting: Setting) -> list[str]:
    word = setting.value.lower()
    if word not in TRUE_WORDS + FALSE_WORDS:
        raise ConfigurationError(
            f"{setting.source}={setting.masked()} sets the switch {option}: expected true or false",
            param=setting.source,
        )
    if word in TRUE_WORDS:
        return [option]
    negative = [other for other in action.option_strings if other.startswith("--no-")]
    return negative[:1]  # a plain switch has no negative form: false is its default


def _items(setting: Setting) -> list[str]:
    """Returns the items of a list, written as a JSON list, as one JSON object, or as words quoted like a shell's.

    A name may hold spaces, so a list of names is words only where something in it is quoted.
    """
    try:
        document = json.loads(setting.value)
    except json.JSONDecodeError:
        if setting.flag in SPACED_LISTS and not {"'", '"'} & set(setting.value):
            return [setting.value]
        try:
            return shlex.split(setting.value)
        except ValueError as error:
            raise ConfigurationError(
                f"""{setting.source} is not a list: {error}. Write it as JSON, as in '["a", "b"]'""",
                param=setting.source,
            ) from error
    items = document if isinstance(document, list) else [document]
    return [item if isinstance(item, str) else json.dumps(item) for item in items]
