"""The demo model's data and files are what README says they are."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from safetensors import safe_open

from scripts.demo_training.corpus import DEMO_MODEL_DIR, load_pairs, load_schema, pirate
from scripts.train_demo_model import SIZE_LIMIT_BYTES

PAIRS = load_pairs()


def test_there_are_enough_pairs_and_no_question_has_two_answers() -> None:
    assert len(PAIRS) >= 200
    assert len({pair.question for pair in PAIRS}) == len(PAIRS)
    assert sum(pair.topic == "sql" for pair in PAIRS) >= 36


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair.topic == "sql"], ids=lambda pair: pair.question)
def test_every_sql_answer_runs_on_the_schema(pair: object) -> None:
    database = sqlite3.connect(":memory:")
    database.executescript(load_schema())
    database.execute(pair.answer)  # type: ignore[attr-defined]
    database.close()


def test_a_malformed_pair_is_reported_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"topic": "a", "question": "b", "answer": "c"}\n{"topic": "a"}\n')
    with pytest.raises(ValueError, match=r"pairs.jsonl:2: expected topic, question and answer"):
        load_pairs(file)


def test_the_pirate_style_keeps_the_answer_and_changes_its_sound() -> None:
    assert pirate("You are my friend and you know it.") == "Arr! You be me friend an' ye know it. Yo ho ho!"


def test_the_model_with_all_its_files_is_under_the_limit() -> None:
    files = [path for path in DEMO_MODEL_DIR.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < SIZE_LIMIT_BYTES


def test_the_weights_are_a_small_llama_in_safetensors() -> None:
    config = json.loads((DEMO_MODEL_DIR / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    with safe_open(DEMO_MODEL_DIR / "model.safetensors", "pt") as weights:
        parameters = sum(weights.get_tensor(name).numel() for name in weights.keys())  # noqa: SIM118 - not a dict
    assert 1_500_000 < parameters < 3_000_000


def test_the_adapter_is_in_peft_format() -> None:
    config = json.loads((DEMO_MODEL_DIR / "adapters" / "pirate" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"]) == ("LORA", 8)
    with safe_open(DEMO_MODEL_DIR / "adapters" / "pirate" / "adapter_model.safetensors", "pt") as weights:
        assert any("lora_A" in name for name in weights.keys())  # noqa: SIM118 - not a dict
