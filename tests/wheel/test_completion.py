"""The completion scripts, sourced in the shells that are installed here, complete what people type."""

from __future__ import annotations

import asyncio
import os
import pty
import select
import shutil
from pathlib import Path

import pytest

from tests.wheel.installed import Installed
from vllm_service.cli.parser import COMMANDS

SECONDS = 30
SHELLS = [shell for shell in ("bash", "fish", "zsh") if shutil.which(shell)]
# What is typed, and the words one of which completes it.
TYPED = {
    "vllm-service simul": {"simulate"},
    "vllm-service examples sho": {"show"},
    "vllm-service keys create acme --ti": {"--tier"},
    "vllm-service ledger export --format par": {"parquet"},
    "vllm-service simulate --scenario 120": {"120b-h100"},
    "vllm-service simulate --trace own-": {"own-trace.csv"},
    "vllm-service examples show diur": {"diurnal"},
    "vllm-service completion zs": {"zsh"},
}
BASH = """
source <(vllm-service completion bash)
words=($TYPED)
COMP_LINE=$TYPED COMP_POINT=${#TYPED} COMP_WORDS=("${words[@]}") COMP_CWORD=$((${#words[@]} - 1))
complete=$(complete -p vllm-service); complete=${complete##*-F }
${complete%% *} vllm-service "${words[-1]}" "${words[-2]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
FISH = 'vllm-service completion fish | source; complete -C "$TYPED"'
ZSH = 'PS1=; autoload -Uz compinit; compinit -u -D; eval "$(vllm-service completion zsh)"; print REA""DY\n'


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "own-trace.csv").touch()
    return tmp_path


async def completed(shell: str, typed: str, installed: Installed, directory: Path) -> set[str]:
    """The shell's completions of the last word."""
    if shell == "zsh":
        return {(await asyncio.to_thread(typed_in_zsh, typed, installed, directory)).split()[-1]}
    code = {"bash": BASH, "fish": FISH}[shell]
    ended = await installed.run(directory, shell, "-c", code, TYPED=typed)
    assert (ended.code, ended.stderr) == (0, "")
    # fish adds a description after a tab.
    return {line.partition("\t")[0].strip() for line in ended.stdout.splitlines()} - {""}


def typed_in_zsh(typed: str, installed: Installed, directory: Path) -> str:
    """The line as zsh's editor leaves it after a tab: only at a terminal does zsh complete."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(directory)
        environment = installed.environment(HOME=str(directory), COLUMNS="400")
        os.execvpe("zsh", ["zsh", "-f", "-i"], environment)
    try:
        os.write(terminal, ZSH.encode())
        until(terminal, "READY")
        # The tab completes; Ctrl-A and Ctrl-E put the line between words that are printed instead of run.
        # The quotes in them keep what is typed, which is shown too, from being taken for what is printed.
        os.write(terminal, f"{typed}\t\x01print -r -- BEG''IN \x05 E''ND\n".encode())
        until(terminal, "BEGIN ")
        return until(terminal, " END").removesuffix(" END").strip()
    finally:
        os.close(terminal)
        os.waitpid(child, 0)


def until(terminal: int, expected: str) -> str:
    """What the terminal shows next, up to and with this."""
    shown = ""
    while not shown.endswith(expected):
        readable, _, _ = select.select([terminal], [], [], SECONDS)
        assert readable, f"no {expected!r} in {SECONDS} s, only {shown!r}"
        shown += os.read(terminal, 1).decode(errors="replace")
    return shown


@pytest.mark.parametrize("typed", TYPED)
@pytest.mark.parametrize("shell", SHELLS)
async def test_what_is_typed_is_completed(shell: str, typed: str, client_alone: Installed, directory: Path) -> None:
    async with asyncio.timeout(SECONDS):
        assert TYPED[typed] == await completed(shell, typed, client_alone, directory)


@pytest.mark.parametrize("shell", ["bash", "fish", "zsh"])
async def test_each_shells_script_knows_every_command(shell: str, client_alone: Installed, tmp_path: Path) -> None:
    ended = await client_alone.run(tmp_path, "vllm-service", "completion", shell)
    assert ended.code == 0
    assert [verb for verb in COMMANDS if verb not in ended.stdout] == []
