"""Reads vLLM's flags about the server from the environment, before vLLM is imported.

The port is open, and its keys are known, long before that. A parser of these few flags reads the same variables, extra
arguments and file of flags as vLLM's parser does; tests/contract holds that both understand them alike.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handler.engine.arguments import CONFIG_FLAG, CommandLine, command_line, flags_of
from handler.engine.start_errors import start_error
from handler.errors import ConfigurationError

# vLLM's own variables that look like these flags with a prefix.
VLLM_VARIABLES = frozenset({"VLLM_PORT", "VLLM_API_KEY"})
EVERY_ADDRESS = "0.0.0.0"  # noqa: S104 - a load balancer comes from outside the container


@dataclass(frozen=True)
class Tls:
    """The certificate of the server, as `uvicorn.Config` takes it."""

    ssl_keyfile: str | None = None
    ssl_certfile: str | None = None
    ssl_ca_certs: str | None = None
    ssl_cert_reqs: int = int(ssl.CERT_NONE)
    ssl_ciphers: str | None = None


@dataclass(frozen=True)
class Door:
    """What the server's flags set."""

    host: str | None = None
    port: int | None = None
    #: Callers need one of them; none lets everybody in.
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    #: Web pages of these origins may call.
    allowed_origins: tuple[str, ...] = ()
    allowed_methods: tuple[str, ...] = ("*",)
    allowed_headers: tuple[str, ...] = ("*",)
    allow_credentials: bool = False
    #: Answers carry `X-Request-Id`.
    request_id_headers: bool = False
    #: A prefix that a proxy leaves in front of every path.
    root_path: str = ""
    tls: Tls = field(default_factory=Tls)

    @classmethod
    def read(cls, environment: Mapping[str, str], *, own_key: bool = True) -> Door:
        """Reads the flags; raises ConfigurationError naming the variable to blame.

        own_key: VLLM_API_KEY is the key of this server. With VLLM_BASE_URL it is that of another.
        """
        parser = _parser()
        command = command_line(parser, environment, {}, VLLM_VARIABLES)
        try:
            options = parser.parse_known_args(_words(command, parser))[0]
        except Exception as error:
            raise start_error(error, command, parser) from error
        keys = options.api_key or ([environment.get("VLLM_API_KEY", "").strip()] if own_key else [])
        _check_tls(options, command)
        return cls(
            host=options.host,
            port=options.port,
            api_keys=tuple(key for key in keys if key),
            allowed_origins=_texts(options.allowed_origins),
            allowed_methods=_texts(options.allowed_methods),
            allowed_headers=_texts(options.allowed_headers),
            allow_credentials=options.allow_credentials,
            request_id_headers=options.enable_request_id_headers,
            root_path=(options.root_path or "").rstrip("/"),
            tls=Tls(**{name: value for name, value in vars(options).items() if name.startswith("ssl_")}),
        )


def _texts(value: Any) -> tuple[str, ...]:
    """Returns the texts of a JSON list, or one text by itself, whose letters would be a list too."""
    return (value,) if isinstance(value, str) else tuple(str(item) for item in value)


def is_public(host: str) -> bool:
    """Returns whether others than this machine may reach a server that listens on the address."""
    try:
        return not ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host != "localhost"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(exit_on_error=False, add_help=False)
    parser.add_argument("--config")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--api-key", nargs="+")
    for name, default in (("origins", []), ("methods", ["*"]), ("headers", ["*"])):
        parser.add_argument(f"--allowed-{name}", type=json.loads, default=default)
    for switch in ("--allow-credentials", "--enable-request-id-headers"):
        parser.add_argument(switch, action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("--root-path")
    for name in ("keyfile", "certfile", "ca-certs", "ciphers"):
        parser.add_argument(f"--ssl-{name}")
    parser.add_argument("--ssl-cert-reqs", type=int, default=int(ssl.CERT_NONE))
    return parser


def _words(command: CommandLine, parser: argparse.ArgumentParser) -> list[str]:
    """Returns the command line with the file of flags before it, and options spelled with dashes."""
    words = [_with_dashes(word) for word in command.argv(parser)]
    named = parser.parse_known_args(words)[0].config
    return [*_words_of_file(named, set(flags_of(parser)) - {CONFIG_FLAG}), *words] if named else words


def _with_dashes(word: str) -> str:
    option, equals, value = word.partition("=")
    return f"{option.replace('_', '-')}{equals}{value}" if word.startswith("--") else word


def _words_of_file(path: str, flags: set[str]) -> list[str]:
    """Returns what a file of flags says about the server. One that cannot be read ends the start later on."""
    import yaml

    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return []
    found = {} if not isinstance(document, dict) else document
    named = {str(name).replace("-", "_"): value for name, value in found.items()}
    return [word for flag in named.keys() & flags for word in _words_of(flag.replace("_", "-"), named[flag])]


def _words_of(option: str, value: Any) -> list[str]:
    match value:
        case bool():
            return [f"--{option}" if value else f"--no-{option}"]
        case list():
            return [f"--{option}", *(str(item) for item in value)]
        case dict():
            return [f"--{option}", json.dumps(value)]
    return [f"--{option}", str(value)]


def _check_tls(options: argparse.Namespace, command: CommandLine) -> None:
    """Raises ConfigurationError where the certificate cannot be used; uvicorn would only notice once it serves."""
    if not options.ssl_certfile:
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.ssl_certfile, options.ssl_keyfile)
        if options.ssl_ca_certs:
            context.load_verify_locations(options.ssl_ca_certs)
    except (OSError, ValueError) as error:
        variable = command.source_of("ssl_certfile")
        raise ConfigurationError(
            f"{variable}: the certificate, its SSL_KEYFILE or the SSL_CA_CERTS cannot be used: {error}",
            param=variable,
        ) from error
