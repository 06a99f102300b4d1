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


@pytest.mark.parametrize("text", ["", "- a", "api-key: [", "\x00"])
def test_a_file_that_is_none_of_flags_is_left_to_vllms_parser(text: str, tmp_path: Path) -> None:
    (tmp_path / "flags.yaml").write_text(text)
    assert Door.read({"CONFIG": str(tmp_path / "flags.yaml"), "API_KEY": "a"}).api_keys == ("a",)
    assert Door.read({"CONFIG": str(tmp_path / "none.yaml"), "API_KEY": "a"}).api_keys == ("a",)


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
        ({"VLLM_EXTRA_ARGS": "--port x"}, "VLLM_EXTRA_ARGS", "invalid int value"),
        ({"ENABLE_REQUEST_ID_HEADERS": "perhaps"}, "ENABLE_REQUEST_ID_HEADERS", "expected true or false"),
        ({"SSL_CERTFILE": "/no/such.pem"}, "SSL_CERTFILE", "No such file"),
        ({"SSL_CERTFILE": __file__}, "SSL_CERTFILE", "cannot be used"),
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
