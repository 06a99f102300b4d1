"""The emulator's commands as a shell runs them: a taken port is one sentence, a reader that ends early ends them."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from runpod_emulator.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
SERVERS = [("--external-workers",), ("hosted", "--name", "x")]


def command(*arguments: str) -> list[str]:
    # -E: with PYTHONUNBUFFERED argparse itself would pass over the failed write of `--help`, with exit code 0.
    return [sys.executable, "-E", "-m", "runpod_emulator", *arguments]


@pytest.mark.parametrize("arguments", SERVERS)
def test_a_taken_port_is_one_sentence(arguments: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = subprocess.run(
            command(*arguments, "--port", str(port)), capture_output=True, text=True, cwd=ROOT, check=False
        )
    assert ended.returncode == 1
    assert ended.stderr == (
        f"Cannot listen on 127.0.0.1:{port}: Address already in use. Stop what listens there, or give another host and "
        "port; port 0 takes any free one.\n"
    )


@pytest.mark.parametrize("arguments", SERVERS)
@pytest.mark.parametrize("address", [("--port", "99999"), ("--port", "-1"), ("--host", "no-such-host.invalid")])
def test_an_address_that_does_not_exist_is_one_sentence(arguments: tuple[str, ...], address: tuple[str, str]) -> None:
    ended = subprocess.run(command(*arguments, *address), capture_output=True, text=True, cwd=ROOT, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("Cannot listen on ")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [("--help",), ("hosted", "--help"), *[(*server, "--port", "0") for server in SERVERS]]
)
def test_a_command_whose_reader_is_gone_ends_quietly(arguments: tuple[str, ...]) -> None:
    with subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--external-workers", "--idle-timeout", "nan"), "idle_timeout_seconds: expected a finite number"),
        (("--external-workers", "--queue-delay", "inf"), "queue_delay_seconds: expected a finite number"),
        (("--external-workers", "--stop-grace", "-1"), "stop_grace_seconds: expected a finite number"),
        (("--external-workers", "--execution-timeout", "nan"), "execution_timeout_seconds: expected a finite number"),
        (("--worker", "python 'handler.py"), """--worker: "python 'handler.py" cannot be split as a shell would"""),
        (("--external-workers", "--stock", "NO_24=1"), "stock: there is no GPU pool or type NO_24"),
        (("--external-workers", "--stock", "ADA_24=-1"), "--stock: expected POOL=WORKERS"),
        (("--external-workers", "--stock", "ADA_24"), "--stock: expected POOL=WORKERS"),
        (("--external-workers", "--unused-seconds", "-1", "5"), "unused_until_reduced_seconds: expected a finite"),
        (("--worker", "x", "--worker-logs", "/proc/logs"), "No such file or directory: '/proc/logs'"),
    ],
)
def test_an_option_that_cannot_be_is_named(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--port", "0"])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
