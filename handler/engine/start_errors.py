"""Explains why vLLM did not start: from whatever it raised, one error that names variable, cause and remedy.

vLLM raises errors of every type, from flags to the last step of its start, some of them in another process. A message
is looked up in `RULES` first; where none fits, the variable is the one whose flag the message names.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Container
from dataclasses import dataclass

from handler.engine.arguments import EXTRA_ARGS_NAME, CommandLine, Setting, flags_of, variable_of
from handler.engine.former_names import replacement
from handler.errors import ConfigurationError, EngineUnavailable, WorkerError

# Errors of these types come from what was configured, so the next start would end the same way.
LASTING = (
    ValueError,
    TypeError,
    LookupError,
    ImportError,
    AttributeError,
    NotImplementedError,
    AssertionError,
    OSError,
)
LASTING_NAMES = frozenset(
    {"SafetensorError", "TemplateSyntaxError", "JSONDecodeError", "ValidationError", "VLLMValidationError", "error"}
    | {"FileNotFoundError", "NotADirectoryError", "IsADirectoryError", "PermissionError", "UnicodeDecodeError"}
    | {"KeyError", "IndexError", "ModuleNotFoundError", *(kind.__name__ for kind in LASTING if kind is not OSError)}
)
LONGEST_CAUSE = 600
# How argparse and vLLM say that a value is no JSON.
NO_JSON = re.compile(r"(invalid loads value: |Value (?=.* cannot be converted to loads))(?P<value>.*?)( cannot.*)?$")
QUOTED = re.compile(r"'([^'\n]{2,})'")
UNKNOWN_FLAGS = re.compile(r"unrecognized arguments: (.*)")


@dataclass(frozen=True)
class Rule:
    """One kind of failure, by the words of its message."""

    words: re.Pattern[str]
    #: The flags to correct; the first that a variable sets is blamed, else the first that has a value, else the last.
    flags: tuple[str, ...]
    remedy: str
    #: Whether the next start may succeed with the same configuration.
    retryable: bool = False


def _rule(words: str, flags: str, remedy: str, *, retryable: bool = False) -> Rule:
    return Rule(re.compile(words, re.IGNORECASE | re.DOTALL), tuple(flags.split()), remedy, retryable)


RULES = (
    _rule(
        r"LoRA is not enabled|enable_lora is not set",
        "lora_modules",
        "Set ENABLE_LORA=true, or leave the adapters out",
    ),
    _rule(
        r"LoRA rank (\d+) is greater than max_lora_rank",
        "max_lora_rank",
        "Set MAX_LORA_RANK to the rank of the largest adapter, or more",
    ),
    _rule(
        r"add_lora method failed|Loading lora .* failed|No adapter found|lora adapter .* already been loaded",
        "lora_modules",
        "Name a directory that holds adapter_config.json and the adapter's whole weights, made for this model",
    ),
    _rule(
        r"tool[ _]call parser|tool_parser|tool-call-parser|Tool parser",
        "tool_call_parser",
        "Set TOOL_CALL_PARSER to the parser of the model's family (vllm serve --help lists them), or leave it and "
        "ENABLE_AUTO_TOOL_CHOICE out",
    ),
    _rule(
        r"reasoning parser",
        "reasoning_parser",
        "Set REASONING_PARSER to one that is named here, or leave it out",
    ),
    _rule(
        r"chat template|TemplateSyntaxError|TemplateError",
        "chat_template",
        "Set CHAT_TEMPLATE to a readable file with a valid Jinja template, or leave it out to use the model's own",
    ),
    _rule(
        r"Free memory on device",
        "gpu_memory_utilization",
        "Another process may hold memory of this GPU. If none does, set GPU_MEMORY_UTILIZATION lower",
        retryable=True,
    ),
    _rule(
        r"No available memory for the cache blocks|KV cache is needed|larger than the available KV cache memory"
        r"|kv.?cache.*(not enough|too small|insufficient)",
        "kv_cache_memory_bytes gpu_memory_utilization max_model_len",
        "Give the KV cache more memory (a larger KV_CACHE_MEMORY_BYTES, such as 4G, where it is set, else a larger "
        "GPU_MEMORY_UTILIZATION or GPU), or set a smaller MAX_MODEL_LEN",
    ),
    _rule(
        r"derived max_model_len|max_position_embeddings",
        "max_model_len",
        "Set MAX_MODEL_LEN to what the model was made for, or leave it out",
    ),
    _rule(
        r"out of memory|Cannot allocate memory|DefaultCPUAllocator|can't allocate memory",
        "model",
        "The model and its KV cache do not fit into the memory: take a smaller or quantized model, a larger GPU, more "
        "GPUs (TENSOR_PARALLEL_SIZE), a smaller MAX_MODEL_LEN or MAX_NUM_SEQS, or less KV_CACHE_MEMORY_BYTES",
    ),
    _rule(
        r"SafetensorError|deserializing header|header too|parse_safetensors|unpack requires a buffer|Error while "
        r"deserializing|not fully covered|PytorchStreamReader",
        "model",
        "A file of the weights is truncated or damaged: copy or download the model once more",
    ),
    _rule(
        r"Cannot find any model weights|no weights|weights.*(not initialized|missing)",
        "model",
        "Files of the weights are missing: copy or download the model once more",
    ),
    _rule(
        r"size of tensor|(shape|size) mismatch|Attempted to load weight|loaded_weight",
        "model",
        "The weights and config.json do not belong together: copy or download the model once more",
    ),
    _rule(
        r"Invalid repository ID or local directory|does not appear to have a file named|config\.json",
        "model",
        "Name a directory with a whole model, or a hub name (organisation/name)",
    ),
    _rule(
        r"trust_remote_code",
        "trust_remote_code",
        "Set TRUST_REMOTE_CODE=true if you trust the code in the model's repository",
    ),
    _rule(
        r"(architectures?|model type).*(not supported|does not recognize|no vLLM implementation|not recognized)|"
        r"does not recognize this architecture|no vLLM implementation|failed to be inspected",
        "hf_overrides model",
        "This vLLM cannot run that kind of model: take another model, or an image with a newer vLLM",
    ),
    _rule(r"ConnectError", "tool_server", "Start the tool server, or leave TOOL_SERVER out", retryable=True),
    _rule(
        r"tokenizer",
        "tokenizer_mode tokenizer",
        "Check that the tokenizer's files lie in the model's directory, or set TOKENIZER to where they are",
    ),
    _rule(
        r"config file (must be|specified)",
        "config",
        "Name a readable YAML file with flags of vllm serve and their values",
    ),
    _rule(
        r"Address already in use",
        "master_port",
        "Another process has the port: end it, or set another port",
        retryable=True,
    ),
)


def start_error(
    error: Exception, command: CommandLine, parser: argparse.ArgumentParser, cause: str | None = None
) -> WorkerError:
    """Returns the error to report for whatever vLLM raised while it started; the worker's own stays as it is.

    cause: what a process of the engine logged, as `Type: message`. `error` then only says that this process has ended.
    """
    if isinstance(error, WorkerError):
        return error
    if isinstance(error, argparse.ArgumentError):
        return _refused_value(error, command, parser)
    raw = cause or f"{type(error).__name__}: {error}"
    text = _masked(tidy(raw), command)
    if found := UNKNOWN_FLAGS.search(text):
        return _unknown_flags(found[1], command, flags_of(parser))
    for rule in RULES:
        if rule.words.search(text) and not (rule.flags == ("model",) and _quoted(raw, command)):
            variable = command.source_of(_flag_to_blame(rule, command))
            return _explained(text, variable, rule.remedy, lasting=not rule.retryable)
    setting = _quoted(raw, command) or _mentioned(text, command)
    lasting = _is_lasting(error, cause) or (setting is not None and setting.flag != "model")
    if setting is not None:
        variable, remedy = setting.source, f"Correct it, or leave it out; it is {setting.masked()} now"
    elif _mentions_extra(text, command):
        variable, remedy, lasting = EXTRA_ARGS_NAME, "Correct them, or leave them out", True
    else:
        return _explained(text, None, "The log above has the whole error", lasting=lasting)
    return _explained(text, variable, remedy, lasting=lasting)


def _unknown_flags(words: str, command: CommandLine, flags: Container[str]) -> ConfigurationError:
    """Returns the error for words of the extra arguments, or of the file of flags, that are no flags of this vLLM."""
    variable = EXTRA_ARGS_NAME if command.extra else variable_of("config")
    names = [word.partition("=")[0].removeprefix("--").replace("-", "_") for word in words.split()]
    advice = [f"{name.lower()}: {text}" for name in names if (text := replacement(name.upper(), flags, ""))]
    remedy = "; ".join(advice) or "vllm serve --help lists the flags of this vLLM"
    return ConfigurationError(f"{variable}: vLLM has no flag {words}. {remedy}.", param=variable)


def _masked(text: str, command: CommandLine) -> str:
    """Returns the text without the values of secret flags."""
    for setting in command.settings:
        if setting.is_secret:
            text = text.replace(setting.value, setting.masked())
    return text


def tidy(text: str) -> str:
    """Returns a message on one line, without what pydantic adds around it and without the end of a long one."""
    text = re.sub(r"^(\w+\.)*(\w+: )?\d+ validation errors? for \w+\s+", "", text)
    text = re.sub(r"\s*\[type=\w+, input_value=.*?(?=\n\s*For further|\n\w|$)", "", text, flags=re.DOTALL)
    text = re.sub(r"\s*For further information visit \S+", "", text)
    text = re.sub(r"^\s*(\w+\n\s*)?(Value|Assertion) error, ", "", text)
    text = re.sub(r"<function (\w+) at 0x\w+>", r"\1", " ".join(text.split()))
    return text if len(text) <= LONGEST_CAUSE else f"{text[:LONGEST_CAUSE]} ..."


def _flag_to_blame(rule: Rule, command: CommandLine) -> str:
    given = {setting.flag for setting in command.given} | {*command.extra_flags}
    valued = {setting.flag for setting in command.settings}
    return next(
        (flag for flags in (given, valued) for flag in rule.flags if flag in flags),
        rule.flags[-1],
    )


def _explained(cause: str, variable: str | None, remedy: str, *, lasting: bool) -> WorkerError:
    kind = ConfigurationError if lasting else EngineUnavailable
    start = f"{variable}: " if variable else ""
    return kind(f"{start}vLLM cannot start: {cause.rstrip('.')}. {remedy}.", param=variable)


def _is_lasting(error: Exception, cause: str | None) -> bool:
    if cause is not None:
        return cause.partition(":")[0].rpartition(".")[2] in LASTING_NAMES
    return isinstance(error, LASTING)


def _refused_value(
    error: argparse.ArgumentError, command: CommandLine, parser: argparse.ArgumentParser
) -> ConfigurationError:
    """Returns the error for a value that the parser refused."""
    options = {*(error.argument_name or "").split("/")}
    flag = next((flag for flag, action in flags_of(parser).items() if options & {*action.option_strings}), "")
    variable = command.source_of(flag) if flag else EXTRA_ARGS_NAME
    setting = next((setting for setting in command.given if setting.source == variable), None)
    start = f"{variable}={setting.masked()}" if setting else f"{variable}: --{flag.replace('_', '-')}"
    reason = NO_JSON.sub(r"""expected JSON, as in '["a"]' or '{"a": 1}'; got \g<value>""", tidy(error.message))
    return ConfigurationError(_masked(f"{start}: {reason}", command), param=variable)


def _quoted(text: str, command: CommandLine) -> Setting | None:
    """Returns the setting, other than the model, that holds something which the message quotes."""
    others = [setting for setting in command.given if setting.flag != "model" and not setting.is_secret]
    quotations = QUOTED.findall(text)
    return next((it for words in quotations for it in others if re.search(_alone(words), it.value)), None)


def _mentioned(text: str, command: CommandLine) -> Setting | None:
    """Returns the setting whose flag, or whose value, stands in the message; the longest name first."""
    words = re.sub(r"[-\s]+", "_", text)
    given = sorted(command.given, key=lambda setting: -len(setting.flag))
    by_name = (setting for setting in given if re.search(_named(setting.flag), words))
    by_value = (setting for setting in given if len(setting.value) > 2 and re.search(_alone(setting.value), text))
    by_part = (setting for setting in given if any(re.search(_alone(part), text) for part in _parts(setting)))
    return next(by_name, None) or next(by_value, None) or next(by_part, None)


def _parts(setting: Setting) -> list[str]:
    """Returns the texts, four letters or longer, that stand for a value in a setting's JSON."""
    return re.findall(r':\s*"([^"\\]{4,})"', setting.value) if setting.value.startswith("{") else []


def _mentions_extra(text: str, command: CommandLine) -> bool:
    """Returns whether a flag of the extra arguments, or the value of one, stands in the message."""
    words = re.sub(r"[-\s]+", "_", text)
    values = (word.rpartition("=")[2] if word.startswith("-") else word for word in command.extra)
    return any(re.search(_named(flag), words) for flag in command.extra_flags) or any(
        len(value) > 2 and not value.startswith("-") and re.search(_alone(value), text) for value in values
    )


def _named(flag: str) -> str:
    """Returns a pattern of the flag's name. A name of one word is a common word too, so it needs a sign of a flag."""
    return rf"(?<![a-z]){flag}(?![a-z])" if "_" in flag else rf"(?<![a-z])(__{flag}|`{flag}`|{flag}=|={flag}\b)"


def _alone(value: str) -> str:
    return rf"(?<!\w){re.escape(value)}(?!\w)"
