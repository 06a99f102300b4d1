"""`python -m runpod_emulator hosted` as a process: addresses first, bills last."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

import openai
import pytest

from runpod_emulator.__main__ import main
from runpod_emulator.hosted import expected_answer

ROOT = Path(__file__).resolve().parents[2]


async def test_providers_of_a_file_are_served_until_sigterm(tmp_path: Path) -> None:
    config = tmp_path / "providers.json"
    model = {"id": "m", "output_usd": "2.5", "answer_tokens": 4}
    config.write_text(json.dumps({"providers": [{"name": "one", "models": [model]}, {"name": "two"}]}))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "runpod_emulator", "hosted", "--config", str(config), "--port", "0"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout
    try:
        lines = [(await process.stdout.readline()).decode().split() for _ in range(2)]
        urls = {name: url for name, url in lines}  # noqa: C416  says what a line is
        assert urls.keys() == {"one", "two"}
        async with openai.AsyncOpenAI(base_url=urls["one"], api_key="any") as client:
            answer = await client.completions.create(model="m", prompt="hi")
        assert answer.choices[0].text == expected_answer("hi", 4)
    finally:
        process.send_signal(signal.SIGTERM)
        rest = (await process.stdout.read()).decode()
        await process.wait()
    assert process.returncode == 0
    assert "0.00001" in rest


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--config", "/nowhere.json"],
        ["--name", "a b"],
        ["--name", "x", "--ttft", "-1"],
        ["--name", "x", "--ttft", "nan"],
        ["--name", "x", "--tokens-per-second", "inf"],
    ],
)
def test_wrong_arguments_exit_with_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["hosted", *arguments])
    assert ended.value.code == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize(
    "document",
    [{"name": "two", "modls": []}, {"name": "two", "ttft_seconds": "x"}, {"name": "two", "models": [{"idd": "m"}]}],
)
def test_a_wrong_provider_of_a_file_is_named(
    document: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "providers.json"
    config.write_text(json.dumps({"providers": [{"name": "one"}, document]}))
    with pytest.raises(SystemExit):
        main(["hosted", "--config", str(config)])
    assert f"{config}: " in (said := capsys.readouterr().err)
    assert "provider 'two': " in said
