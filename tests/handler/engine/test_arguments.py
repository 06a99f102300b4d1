"""Environment variables become vLLM's arguments by looking at the parser, whatever flags it has."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from handler.engine.arguments import Setting, command_line, flags_of
from handler.errors import ConfigurationError


def small_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("model_tag", nargs="?")
    parser.add_argument("--model")
    parser.add_argument("--revision")
    parser.add_argument("--max-model-len", type=int)
    parser.add_argument("--enable-lora", action=argparse.BooleanOptionalAction)
    parser.add_argument("--headless", action="store_true")
    parser.add_argument("--served-model-name", nargs="+")
    parser.add_argument("--lora-modules", nargs="+")
    parser.add_argument("--middleware", action="append", default=[])
    parser.add_argument("--hf-token")
    parser.add_argument("--port", type=int)
    parser.add_argument("-s", "--speculative-config")
    return parser


def parsed(environment: dict[str, str], **defaults: str) -> argparse.Namespace:
    parser = small_parser()
    return parser.parse_args(command_line(parser, environment, defaults).argv(parser))


def warnings(environment: dict[str, str], known: frozenset[str] = frozenset()) -> str:
    return "\n".join(command_line(small_parser(), environment, {}, known).warnings)


def test_every_flag_has_its_upper_snake_name() -> None:
    assert set(flags_of(small_parser())) >= {"max_model_len", "enable_lora", "speculative_config", "headless"}
    assert parsed({"MAX_MODEL_LEN": "4096", "SPECULATIVE_CONFIG": '{"a": 1}'}).max_model_len == 4096


@pytest.mark.parametrize(
    ("word", "value"), [("true", True), ("1", True), ("YES", True), ("false", False), ("0", False)]
)
def test_switches_take_words_in_both_directions(word: str, value: bool) -> None:
    assert parsed({"ENABLE_LORA": word}).enable_lora is value
    assert parsed({"HEADLESS": word}).headless is value


def test_a_switch_with_another_word_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match=r"ENABLE_LORA=maybe .* expected true or false"):
        parsed({"ENABLE_LORA": "maybe"})


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("a=b c=d", ["a=b", "c=d"]),
        ('["a=b", "c=d"]', ["a=b", "c=d"]),
        ('{"name": "a"}', ['{"name": "a"}']),
        ('[{"name": "a"}, {"name": "c"}]', ['{"name": "a"}', '{"name": "c"}']),
        ("'a=my model'", ["a=my model"]),
    ],
)
def test_lists_are_written_as_json_or_as_words(text: str, items: list[str]) -> None:
    assert parsed({"LORA_MODULES": text}).lora_modules == items


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("My Model", ["My Model"]),
        ("plain", ["plain"]),
        ('["My Model", "b"]', ["My Model", "b"]),
        ("'My Model' b", ["My Model", "b"]),
        ('"a" "b"', ["a", "b"]),
    ],
)
def test_a_name_may_hold_spaces(text: str, names: list[str]) -> None:
    assert parsed({"SERVED_MODEL_NAME": text}).served_model_name == names
    assert parsed({"OPENAI_SERVED_MODEL_NAME_OVERRIDE": text}).served_model_name == names


def test_the_home_directory_replaces_a_tilde_that_begins_a_path() -> None:
    home = str(Path.home())
    assert parsed({"MODEL": "~/m"}).model == f"{home}/m"
    assert parsed({"VLLM_EXTRA_ARGS": "--revision=~/r --model ~"}).revision == f"{home}/r"
    assert parsed({"VLLM_EXTRA_ARGS": "--revision=~/r --model ~"}).model == home
    assert parsed({"MODEL": "a~/m", "REVISION": "~r"}).revision == "~r"


def test_a_file_of_flags_is_named_by_two_words_because_vllm_reads_it_only_there() -> None:
    parser = small_parser()
    parser.add_argument("--config")
    assert command_line(parser, {"CONFIG": "/c.yaml"}, {}).argv(parser) == ["--config", "/c.yaml"]


@pytest.mark.parametrize(
    ("environment", "flag", "source"),
    [
        ({"MODEL_NAME": "a"}, "model", "MODEL_NAME"),
        ({"VLLM_MODEL": "a"}, "model", "VLLM_MODEL"),
        ({"VLLM_EXTRA_ARGS": "--max_model_len=7"}, "max_model_len", "VLLM_EXTRA_ARGS"),
        ({}, "model", "MODEL_NAME"),
        ({}, "max_model_len", "MAX_MODEL_LEN"),
    ],
)
def test_a_wrong_flag_is_blamed_on_the_variable_that_sets_it_or_would(
    environment: dict[str, str], flag: str, source: str
) -> None:
    assert command_line(small_parser(), environment, {"model": "demo"}).source_of(flag) == source


def test_repeated_options_are_repeated() -> None:
    assert parsed({"MIDDLEWARE": "a.b c.d"}).middleware == ["a.b", "c.d"]


def test_values_that_begin_with_a_dash_stay_values() -> None:
    assert parsed({"REVISION": "--odd"}).revision == "--odd"
    assert parsed({"SERVED_MODEL_NAME": "-odd"}).served_model_name == ["-odd"]
    with pytest.raises(ConfigurationError, match="SERVED_MODEL_NAME: of several items none can begin with a dash"):
        parsed({"SERVED_MODEL_NAME": '["a", "-odd"]'})


def test_historical_and_prefixed_names_work() -> None:
    assert parsed({"MODEL_NAME": "a/b", "MODEL_REVISION": "r"}).revision == "r"
    assert parsed({"OPENAI_SERVED_MODEL_NAME_OVERRIDE": "x"}).served_model_name == ["x"]
    assert parsed({"VLLM_MODEL": "a/b", "VLLM_MAX_MODEL_LEN": "8"}).max_model_len == 8


def test_the_flags_own_name_wins_and_the_loser_is_named() -> None:
    environment = {"MODEL": "own", "MODEL_NAME": "historical", "VLLM_MODEL": "prefixed"}
    assert parsed(environment).model == "own"
    assert "MODEL_NAME is ignored: MODEL sets --model too" in warnings(environment)
    assert warnings({"MODEL": "same", "MODEL_NAME": "same"}) == ""


def test_extra_arguments_win_over_all() -> None:
    assert parsed({"MAX_MODEL_LEN": "1", "VLLM_EXTRA_ARGS": "--max-model-len 2 --headless"}).max_model_len == 2


def test_extra_arguments_that_cannot_be_split_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="VLLM_EXTRA_ARGS"):
        parsed({"VLLM_EXTRA_ARGS": "--model 'a"})


def test_defaults_give_way_to_the_environment_and_empty_values_count_as_not_set() -> None:
    assert parsed({"MODEL": ""}, model="demo").model == "demo"
    assert parsed({"MODEL_NAME": "a/b"}, model="demo").model == "a/b"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("MAX_MODEL_LENGTH", "MAX_MODEL_LEN"),
        ("ENABLE_LORAS", "ENABLE_LORA"),
        ("VLLM_MAX_MODEL_LENGTH", "VLLM_MAX_MODEL_LEN"),
        ("MODEL_NAM", "MODEL_NAME"),
        ("VLLM_ENABLE_LORAS", "VLLM_ENABLE_LORA"),
    ],
)
def test_a_slip_warns_with_the_nearest_name(name: str, nearest: str) -> None:
    assert f"{name} is not a flag of this vLLM" in warnings({name: "1"})
    assert f"did you mean {nearest}?" in warnings({name: "1"})


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("TASK", "RUNNER=pooling"),
        ("ENABLE_REASONING", "REASONING_PARSER"),
        ("GUIDED_DECODING_BACKEND", "STRUCTURED_OUTPUTS_CONFIG"),
        ("VLLM_TASK", "RUNNER=pooling"),
        ("SWAP_SPACE", "leave it out"),
    ],
)
def test_a_removed_flag_is_named_with_what_to_set_instead(name: str, advice: str) -> None:
    assert f"{name} has no effect in this vLLM: " in warnings({name: "x"})
    assert advice in warnings({name: "x"})


def test_a_former_name_that_is_a_flag_again_does_not_warn() -> None:
    parser = small_parser()
    parser.add_argument("--task")
    assert command_line(parser, {"TASK": "x"}, {}).warnings == ()


def test_vllms_own_variables_are_not_taken_for_prefixed_flags() -> None:
    command = command_line(small_parser(), {"VLLM_PORT": "1"}, {}, known_names=frozenset({"VLLM_PORT"}))
    assert command.settings == ()


def test_secrets_are_masked() -> None:
    assert Setting("hf_token", "hf_x", "HF_TOKEN").masked() == "********"
    assert Setting("max_num_batched_tokens", "5", "X").masked() == "5"
