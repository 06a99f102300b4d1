"""A model of random weights, for measuring how fast weights are read. Its answers make no sense."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

LAYERS = 18
HIDDEN = 2048
INTERMEDIATE = 8192
HEADS = 16
SHARD_SIZE = "500MB"


def make_random_model(target: Path, tokenizer_dir: Path) -> Path:
    """Writes a Llama of about 1.2 billion bfloat16 parameters, 2.4 GB in shards, with another model's tokenizer."""
    import torch
    from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM

    vocabulary: int = AutoConfig.from_pretrained(tokenizer_dir).vocab_size
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=2048,
        torch_dtype="bfloat16",
    )
    torch.set_default_dtype(torch.bfloat16)
    try:
        LlamaForCausalLM(config).save_pretrained(target, max_shard_size=SHARD_SIZE)
    finally:
        torch.set_default_dtype(torch.float32)
    for pattern in ("tokenizer*", "special_tokens*", "chat_template*", "vocab*", "merges*"):
        for path in tokenizer_dir.glob(pattern):
            shutil.copy(path, target)
    os.sync()  # only pages that are on the disk can be dropped
    return target


def drop_from_page_cache(directory: Path) -> None:
    """Makes the next reader fetch the files from the disk (posix_fadvise: DONTNEED)."""
    for path in directory.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
