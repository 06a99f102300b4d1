"""vLLM's flags about its server: each is obeyed, its application's own, or named as having no effect."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from handler.door.flags import VLLM_VARIABLES, Door
from handler.engine import vllm_parts
from handler.engine.arguments import flags_of
from handler.engine.server_flags import OBEYED, OF_THE_APPLICATION, WITHOUT_EFFECT
from handler.settings import WorkerSettings

MOVED = "vLLM has changed a flag of its server; say in handler/engine/server_flags.py what becomes of it: "


@pytest.fixture(scope="module")
def parser() -> argparse.ArgumentParser:
    return vllm_parts.serve_parser()


def test_every_flag_of_vllms_server_is_accounted_for(parser: argparse.ArgumentParser) -> None:
    from vllm.entrypoints.launchers.cli_args import BaseFrontendArgs, FrontendArgs

    of_the_server = set(FrontendArgs.__dataclass_fields__) - set(BaseFrontendArgs.__dataclass_fields__)
    known = OBEYED | OF_THE_APPLICATION | set(WITHOUT_EFFECT)
    assert of_the_server - known == set(), MOVED
    assert known - set(flags_of(parser)) == set(), MOVED


def test_vllms_own_variables_that_look_like_these_flags_are_known() -> None:
    from vllm import envs

    prefixed = {f"VLLM_{flag.upper()}" for flag in OBEYED}
    assert prefixed & set(envs.environment_variables) == set(VLLM_VARIABLES), MOVED


# Each environment means the same to the door, which is read before vLLM is imported, as to vLLM itself.
ENVIRONMENTS: list[dict[str, str]] = [
    {},
    {"API_KEY": "a"},
    {"API_KEY": "a b"},
    {"API_KEY": "-a_b.c=d"},
    {"API_KEY": '["a b", "c"]'},
    {"VLLM_EXTRA_ARGS": "--api-key a b --seed 3"},
    {"VLLM_EXTRA_ARGS": "--seed 3 --api_key=a --max-model-len 8"},
    {"VLLM_EXTRA_ARGS": "--api-key a", "API_KEY": "b"},
    {"VLLM_EXTRA_ARGS": "m --allowed_origins '[\"https://x\"]' --allow-credentials"},
    {"ALLOWED_ORIGINS": '["*"]', "ALLOWED_METHODS": '["GET"]', "ALLOWED_HEADERS": '["x"]', "ALLOW_CREDENTIALS": "1"},
    {"ENABLE_REQUEST_ID_HEADERS": "true", "ROOT_PATH": "/llm", "HOST": "::1", "PORT": "9", "SSL_CERT_REQS": "2"},
    {"VLLM_ROOT_PATH": "/p", "VLLM_HOST": "h", "VLLM_ENABLE_REQUEST_ID_HEADERS": "true"},
    {"VLLM_EXTRA_ARGS": "--no-enable-request-id-headers", "ENABLE_REQUEST_ID_HEADERS": "true"},
    {"SSL_CA_CERTS": "c", "SSL_CIPHERS": "x"},
    {"CONFIG": "FILE", "API_KEY": "stronger"},
    {"CONFIG": "FILE"},
    {"VLLM_EXTRA_ARGS": "--config FILE"},
]
FILE = """
model: m
api-key: [a, b]
allowed-origins: '["https://x"]'
enable-request-id-headers: true
allow_credentials: true
root-path: /f
max-model-len: 8
compilation-config: {mode: 0}
"""


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=str)
def test_the_door_reads_what_vllms_parser_reads(
    environment: dict[str, str], tmp_path: Path, parser: argparse.ArgumentParser
) -> None:
    (tmp_path / "flags.yaml").write_text(FILE)
    variables = {name: value.replace("FILE", str(tmp_path / "flags.yaml")) for name, value in environment.items()}
    door = Door.read(variables)
    settings = WorkerSettings(environment={"MODEL_NAME": "m", **variables})
    command = vllm_parts.read_command_line(settings, parser)
    theirs: Any = parser.parse_args(command.argv(parser))
    assert door.api_keys == tuple(theirs.api_key or ())
    assert (door.host, door.port or 8000) == (theirs.host, theirs.port)
    assert door.allowed_origins == tuple(theirs.allowed_origins)
    assert (door.allowed_methods, door.allowed_headers) == (
        tuple(theirs.allowed_methods),
        tuple(theirs.allowed_headers),
    )
    assert door.allow_credentials == theirs.allow_credentials
    assert door.request_id_headers == theirs.enable_request_id_headers
    assert door.root_path == (theirs.root_path or "")
    assert {name: getattr(theirs, name) for name in vars(door.tls)} == vars(door.tls)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"UDS": "/x"}, "UDS: --uds has no effect here: the worker listens on PORT"),
        (
            {"DATA_PARALLEL_MULTI_PORT_EXTERNAL_LB": "true"},
            "has no effect here: the worker is one server in one process",
        ),
        ({"VLLM_EXTRA_ARGS": "--disable-uvicorn-access-log"}, "VLLM_EXTRA_ARGS: --disable-uvicorn-access-log has no"),
        ({"API_KEY": "k", "RUNPOD_WEBHOOK_GET_JOB": "x"}, "API_KEY: --api-key has no effect on a queue endpoint"),
        ({"API_KEY": "k"}, ""),
        ({"PORT": "9", "RUNPOD_WEBHOOK_GET_JOB": "x"}, ""),
    ],
)
def test_a_flag_without_effect_is_named(
    environment: dict[str, str], words: str, parser: argparse.ArgumentParser
) -> None:
    settings = WorkerSettings.from_environment({"MODEL_NAME": "m", **environment})
    warnings = vllm_parts.read_command_line(settings, parser).warnings
    assert bool(warnings) is bool(words)
    assert words in "\n".join(warnings)
