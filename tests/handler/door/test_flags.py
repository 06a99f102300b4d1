"""vLLM's flags about the server are read before vLLM is imported, from everywhere that vLLM's parser reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from handler.door.flags import Door, is_public
from handler.errors import ConfigurationError


@pytest.mark.parametrize(
    ("environment", "keys"),
    [
        ({}, ()),
        ({"API_KEY": "a"}, ("a",)),
        ({"API_KEY": "a b"}, ("a", "b")),
        ({"API_KEY": '["a", "b c"]'}, ("a", "b c")),
        ({"VLLM_API_KEY": " v "}, ("v",)),
        ({"API_KEY": "a", "VLLM_API_KEY": "v"}, ("a",)),
        ({"API_KEY": " ", "VLLM_API_KEY": "v"}, ("v",)),
        ({"VLLM_EXTRA_ARGS": "--api-key a b --seed 1"}, ("a", "b")),
        ({"VLLM_EXTRA_ARGS": "--seed 1 --api_key=a --model m", "API_KEY": "weaker"}, ("a",)),
        ({"VLLM_EXTRA_ARGS": "m --api-key ''", "VLLM_API_KEY": "v"}, ()),
    ],
)
def test_keys_are_read_from_every_place(environment: dict[str, str], keys: tuple[str, ...]) -> None:
    door = Door.read(environment)
    assert door.api_keys == keys
    assert not any(key in repr(door) for key in keys if len(key) > 1)


@pytest.mark.parametrize("named", [{"CONFIG": "{}"}, {"VLLM_EXTRA_ARGS": "--seed 1 --config {}"}])
def test_the_file_of_flags_is_read_too_and_is_the_weakest(named: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "flags.yaml"
    origins = "allowed_origins: '[\"https://x\"]'"
    file.write_text(f"api-key: [a, b]\n{origins}\nenable-request-id-headers: true\nseed: 1\n")
    environment = {name: value.format(file) for name, value in named.items()}
    door = Door.read(environment)
    assert (door.api_keys, door.allowed_origins, door.request_id_headers) == (("a", "b"), ("https://x",), True)
    assert Door.read(environment | {"API_KEY": "c"}).api_keys == ("c",)


@pytest.mark.parametrize("text", ["", "- a", "api-key: [secret", "\x00", None])
@pytest.mark.parametrize("named", [{"CONFIG": "{}"}, {"VLLM_EXTRA_ARGS": "--config {}"}])
def test_without_its_file_of_flags_the_door_stays_shut(named: dict[str, str], text: str | None, tmp_path: Path) -> None:
    """The keys may be in it, and nothing else reads it where another server has the model."""
    file = tmp_path / "flags.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigurationError, match="is no file of flags") as refused:
        Door.read({name: value.format(file) for name, value in named.items()})
    assert refused.value.param == next(iter(named))
    assert "secret" not in refused.value.message


def test_a_key_may_begin_with_a_dash() -> None:
    assert Door.read({"API_KEY": "-kq3"}).api_keys == ("-kq3",)


def test_the_key_of_another_server_is_not_the_key_of_this_one() -> None:
    assert Door.read({"VLLM_API_KEY": "theirs"}, own_key=False).api_keys == ()


def test_everything_else_is_read() -> None:
    door = Door.read(
        {
            "HOST": "127.0.0.1",
            "PORT": "9",
            "ALLOWED_ORIGINS": '["https://a"]',
            "ALLOWED_METHODS": '["GET"]',
            "ALLOWED_HEADERS": '"x-mine"',
            "ALLOW_CREDENTIALS": "true",
            "ENABLE_REQUEST_ID_HEADERS": "yes",
            "ROOT_PATH": "/llm/",
        }
    )
    assert (door.host, door.port, door.root_path) == ("127.0.0.1", 9, "/llm")
    assert (door.allowed_origins, door.allowed_methods, door.allowed_headers) == (("https://a",), ("GET",), ("x-mine",))
    assert (door.allow_credentials, door.request_id_headers) == (True, True)


@pytest.mark.parametrize(
    ("environment", "variable", "words"),
    [
        ({"ALLOWED_ORIGINS": "*"}, "ALLOWED_ORIGINS", "expected JSON"),
        ({"ALLOWED_ORIGINS": "5"}, "ALLOWED_ORIGINS", "a list of texts"),
        ({"ALLOWED_METHODS": "null"}, "ALLOWED_METHODS", "a list of texts"),
        ({"ALLOWED_HEADERS": "[1]"}, "ALLOWED_HEADERS", "a list of texts"),
        ({"VLLM_EXTRA_ARGS": "--allowed-origins {}"}, "VLLM_EXTRA_ARGS", "a list of texts"),
        ({"VLLM_EXTRA_ARGS": "--port x"}, "VLLM_EXTRA_ARGS", "invalid int value"),
        ({"ENABLE_REQUEST_ID_HEADERS": "perhaps"}, "ENABLE_REQUEST_ID_HEADERS", "expected true or false"),
        ({"SSL_CERTFILE": "/no/such.pem"}, "SSL_CERTFILE", "No such file"),
        ({"SSL_CERTFILE": __file__}, "SSL_CERTFILE", "cannot be used"),
        ({"SSL_KEYFILE": __file__}, "SSL_CERTFILE", "No such file"),
    ],
)
def test_a_wrong_value_is_refused_with_its_variable(environment: dict[str, str], variable: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Door.read(environment)
    assert refused.value.param == variable
    assert words in refused.value.message


@pytest.mark.parametrize(
    ("host", "public"),
    [
        ("0.0.0.0", True),
        ("::", True),
        ("[::]", True),
        ("10.0.0.1", True),
        ("worker.local", True),
        ("127.0.0.1", False),
        ("127.9.9.9", False),
        ("::1", False),
        ("localhost", False),
    ],
)
def test_an_address_is_public_unless_only_this_machine_reaches_it(host: str, public: bool) -> None:
    assert is_public(host) is public
