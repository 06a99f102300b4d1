"""Trains demo_model/ from scratch on the CPU: tokenizer, weights and the `pirate` LoRA adapter.

    .venv/bin/python -m scripts.train_demo_model [--output demo_model] [--steps 1000] [--adapter-steps 200]

It is seeded, and takes a few minutes.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from rich.console import Console
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from scripts.demo_training.corpus import DEMO_MODEL_DIR, Conversation, Pair, load_pairs, load_schema, pirate, sample
from scripts.demo_training.tokenizer import train_tokenizer
from scripts.demo_training.training import CONTEXT_TOKENS, Sampler, mismatches, small_llama, train

ADAPTER = "pirate"
#: The smallest rank that vLLM has kernels for.
ADAPTER_RANK = 8
SAMPLES_PER_STEP = 32
#: How often each pair about tools is in the deck. They are few, and each has several right answers.
TOOL_CARDS = 4
SIZE_LIMIT_BYTES = 8_000_000

console = Console()


def main() -> None:
    """Trains, saves and scores. Exits with 1 if an answer is not exact or the files exceed their size limit."""
    arguments = _parse_arguments()
    torch.manual_seed(0)
    pairs = load_pairs()
    tokenizer = train_tokenizer(_tokenizer_texts(pairs), CONTEXT_TOKENS)
    model = small_llama(tokenizer)
    console.print(f"{model.num_parameters():,} parameters, {len(tokenizer):,} tokens, {len(pairs)} pairs")

    train(model, tokenizer, _sampler(pairs), steps=arguments.steps, learning_rate=3e-3, title="model  ")
    model = model.to(torch.bfloat16)
    model.save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output)
    exact = _report("model", model, tokenizer, pairs)

    adapted = _train_adapter(model, tokenizer, pairs, arguments.adapter_steps)
    _save_adapter(adapted, arguments.output / "adapters" / ADAPTER)
    exact &= _report("adapter", adapted, tokenizer, _styled(pairs), styled=True)

    # safetensors may write files that only their owner can read.
    for file in arguments.output.rglob("*.safetensors"):
        file.chmod(0o644)
    size = sum(file.stat().st_size for file in arguments.output.rglob("*") if file.is_file())
    console.print(f"{arguments.output}: {size / 1e6:.2f} MB in all (limit {SIZE_LIMIT_BYTES / 1e6:.0f} MB)")
    raise SystemExit(0 if exact and size < SIZE_LIMIT_BYTES else 1)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.train_demo_model",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--output", type=Path, default=DEMO_MODEL_DIR, help="the folder to write to (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=1000, help="of the model's training (default: %(default)s)")
    parser.add_argument("--adapter-steps", type=int, default=200, help="of the adapter's (default: %(default)s)")
    return parser.parse_args()


def _tokenizer_texts(pairs: list[Pair]) -> list[str]:
    return [load_schema(), *(text for pair in pairs for text in (pair.question, pair.answer, pirate(pair.answer)))]


def _sampler(pairs: list[Pair]) -> Sampler:
    """Returns a sampler that deals from a shuffled deck, so that every pair is trained equally often."""
    cards = [pair for pair in pairs for _ in range(TOOL_CARDS if pair.topic == "tools" else 1)]
    deck: list[Pair] = []

    def draw(dice: random.Random) -> list[Conversation]:
        if len(deck) < SAMPLES_PER_STEP:
            deck.extend(dice.sample(cards, len(cards)))
        return [sample(deck.pop(0), pairs, dice) for _ in range(SAMPLES_PER_STEP)]

    return draw


def _styled(pairs: list[Pair]) -> list[Pair]:
    """Returns the pairs that the adapter is trained on: no answer in an exact notation, which a style would break."""
    return [pair for pair in pairs if pair.topic not in ("sql", "code", "tools", "unicode")]


def _train_adapter(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, pairs: list[Pair], steps: int
) -> PeftModel:
    lessons = [Pair(pair.topic, pair.question, pirate(pair.answer)) for pair in _styled(pairs)]
    config = LoraConfig(r=ADAPTER_RANK, lora_alpha=2 * ADAPTER_RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(model.float(), config)
    train(adapted, tokenizer, _sampler(lessons), steps=steps, learning_rate=5e-3, title="adapter")
    return adapted.to(torch.bfloat16)


def _save_adapter(adapted: PeftModel, directory: Path) -> None:
    adapted.peft_config["default"].base_model_name_or_path = "demo_model"
    adapted.save_pretrained(directory, save_embedding_layers=False)
    (directory / "README.md").unlink(missing_ok=True)


def _report(
    name: str, model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, pairs: list[Pair], *, styled: bool = False
) -> bool:
    wrong = mismatches(model, tokenizer, pairs, pirate if styled else str)
    console.print(f"{name}: exact match {len(pairs) - len(wrong)}/{len(pairs)}")
    for pair, generated in wrong:
        console.print(f"  {pair.question!r}: {generated!r}", markup=False)
    return not wrong


if __name__ == "__main__":
    main()
