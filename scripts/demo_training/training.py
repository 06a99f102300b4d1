"""Training of a small Llama, or of a LoRA adapter for it, on conversations; its exact-match score at temperature 0."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from scripts.demo_training.corpus import Conversation, Pair, canonical

#: The label that PyTorch's cross entropy ignores.
IGNORED = -100
CONTEXT_TOKENS = 2048

#: How many samples share one padded tensor.
GROUP = 8

Row = tuple[list[int], list[int]]
Sampler = Callable[[random.Random], list[Conversation]]


def small_llama(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Returns a model of about two million parameters; its head size is one that vLLM's CPU attention supports."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=6,
            num_key_value_heads=6,
            head_dim=32,
            max_position_embeddings=CONTEXT_TOKENS,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def train(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    batches: Sampler,
    *,
    steps: int,
    learning_rate: float,
    title: str,
) -> None:
    """Trains every parameter that requires a gradient: AdamW, 5 % warm-up, then a cosine down to a hundredth."""
    dice = random.Random(0)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _learning_rate_share(step, steps))
    model.train()
    for show_loss in _progress(steps, title):
        show_loss(_accumulate(model, tokenizer, batches(dice)))
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
    model.eval()


def mismatches(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    pairs: list[Pair],
    style: Callable[[str], str] = str,
) -> list[tuple[Pair, str]]:
    """Returns each pair whose greedy answer differs from its trained answer, with the answer that came instead."""
    wrong = []
    for pair in pairs:
        generated = answer(model, tokenizer, canonical(pair))
        if generated != style(pair.answer):
            wrong.append((pair, generated))
    return wrong


@torch.inference_mode()
def answer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, conversation: Conversation) -> str:
    """Returns the greedy answer to the conversation without its last turn."""
    prompt = _tokens(tokenizer, render(tokenizer, conversation, with_answer=False))
    output = model.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=256,
        do_sample=False,
    )
    return str(tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True))


def render(tokenizer: PreTrainedTokenizerFast, conversation: Conversation, *, with_answer: bool) -> str:
    """Returns the conversation as the model's input text; without its answer it ends where generation begins."""
    if conversation.plain:
        question, reply = (message["content"] for message in conversation.messages)
        return f"{question} {reply}{tokenizer.eos_token}" if with_answer else question
    messages = conversation.messages if with_answer else conversation.messages[:-1]
    tools = list(conversation.tools) or None
    text = tokenizer.apply_chat_template(
        list(messages), tools=tools, tokenize=False, add_generation_prompt=not with_answer
    )
    return str(text)


def _accumulate(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, samples: list[Conversation]) -> float:
    """Adds up the gradient of one step, and returns its mean loss per answer token."""
    # Samples of similar length share a tensor, so that little is spent on padding.
    rows = sorted((_labelled(tokenizer, sample) for sample in samples), key=lambda row: len(row[0]))
    answer_tokens = sum(label != IGNORED for _, labels in rows for label in labels)
    total = 0.0
    for start in range(0, len(rows), GROUP):
        tokens, labels = _padded(rows[start : start + GROUP], tokenizer.pad_token_id)
        loss = model(input_ids=tokens, labels=labels, attention_mask=tokens != tokenizer.pad_token_id).loss
        # The group's loss is a mean over its own answer tokens: weighted, the sum is the mean over all of them.
        share = loss * ((labels != IGNORED).sum() / answer_tokens)
        share.backward()
        total += share.item()
    return total


def _labelled(tokenizer: PreTrainedTokenizerFast, conversation: Conversation) -> Row:
    """Returns the token ids and labels of one sample; only the last answer counts towards the loss."""
    question = render(tokenizer, conversation, with_answer=False)
    full = render(tokenizer, conversation, with_answer=True)
    # Encoded apart: at generation too, no token spans the end of the prompt.
    prompt = _tokens(tokenizer, question)
    reply = _tokens(tokenizer, full[len(question) :])
    return prompt + reply, [IGNORED] * len(prompt) + reply


def _padded(rows: list[Row], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns token ids and labels, both of shape [samples, longest]."""
    longest = max(len(tokens) for tokens, _ in rows)
    tokens = [tokens + [pad] * (longest - len(tokens)) for tokens, _ in rows]
    labels = [labels + [IGNORED] * (longest - len(labels)) for _, labels in rows]
    return torch.tensor(tokens), torch.tensor(labels)


def _tokens(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _learning_rate_share(step: int, steps: int) -> float:
    warmup = max(1, steps // 20)
    if step < warmup:
        return (step + 1) / warmup
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _progress(steps: int, title: str) -> Iterator[Callable[[float], None]]:
    """Yields one function per step, to be called with its loss: a bar on a terminal, elsewhere ten lines in all."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("loss {task.fields[loss]:.4f}")) as progress:
        task = progress.add_task(title, total=steps, loss=float("nan"))
        for step in range(1, steps + 1):
            yield lambda loss: progress.update(task, loss=loss)
            progress.advance(task)
            if not progress.console.is_terminal and step % max(1, steps // 10) == 0:
                progress.console.print(f"{title} step {step}/{steps}, loss {progress.tasks[0].fields['loss']:.4f}")
