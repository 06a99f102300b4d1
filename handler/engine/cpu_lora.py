"""vLLM's CPU worker with LoRA that reaches only the tokens it is meant for. vLLM loads it by name, in its own process.

vLLM marks a token without an adapter by the slot -1. Its CPU kernels (`lora/ops/torch_ops/lora_ops.py` in 0.32.0) index
the adapters' weights with it and so take the last slot, which with MAX_LORAS=1 is the only one. A slot kept free would
not help: vLLM fills every slot it has, and leaves the weights of an evicted adapter where they were. So the products
are computed here for each adapter's own tokens, and no others are touched. On GPUs the Triton kernels return early for
-1 (`lora/ops/triton_ops/lora_shrink_op.py`, `lora_expand_op.py`), so nothing is replaced there.

The logits of a prompt (`prompt_logprobs`, or `echo` with `logprobs`) have one row for each token of one request, while
vLLM's indices have one for each request in the batch. Its kernels die of that. Here the request is named first.

tests/contract/test_cpu_lora.py notices when vLLM changes what is replaced.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.v1.worker.cpu_model_runner import CPUModelRunner
from vllm.v1.worker.cpu_worker import CPUWorker

#: For each slot in use: its number, and the rows of a batch that its adapter changes.
Rows = Sequence[tuple[int, torch.Tensor | slice]]

EVERY_ROW = slice(None)
NO_ADAPTER = -1


def rows_by_slot(slots: torch.Tensor) -> Rows:
    """Returns the rows of each adapter's slot; the rows without an adapter are in none."""
    used = [slot for slot in torch.unique(slots).tolist() if slot != NO_ADAPTER]
    if len(used) == 1 and bool((slots == used[0]).all()):
        return [(used[0], slice(0, len(slots)))]
    return [(slot, (slots == slot).nonzero().flatten()) for slot in used]


class AdapterRows(PunicaWrapperCPU):  # type: ignore[misc]
    """vLLM's LoRA products on a CPU, each computed only for the rows of its adapter."""

    # An instance of vLLM's class becomes one of this, so the fields have their first values here.
    _token_rows: Rows = ()
    _sampler_rows: Rows = ()
    #: The rows whose logits are computed, while they are not those that are sampled.
    _prompt_rows: Rows | None = None

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Takes over which adapter each token of the next step has."""
        super().update_metadata(*args, **kwargs)
        self._token_rows = rows_by_slot(self.token_lora_indices)
        self._sampler_rows = rows_by_slot(self.sampler_indices)

    @contextmanager
    def logits_of_one_request(self, slot: int) -> Iterator[None]:
        """Computes logits for the tokens of one request, whose adapter is in `slot`, inside the context."""
        self._prompt_rows = [] if slot == NO_ADAPTER else [(slot, EVERY_ROW)]
        try:
            yield
        finally:
            self._prompt_rows = None

    def _apply_shrink(self, y: torch.Tensor, x: torch.Tensor, w_t_all: torch.Tensor, scale: float) -> None:
        shrink(self._token_rows, y.view(-1, y.shape[-1]), x, w_t_all, scale)

    def _apply_expand(  # noqa: PLR0917 - vLLM's signature
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        w_t_all: torch.Tensor,
        y_offset: int,
        y_slice_size: int,
        add_inputs: bool = True,
    ) -> None:
        expand(self._token_rows, y[:, y_offset : y_offset + y_slice_size], x, w_t_all, add_inputs)

    def add_lora_embedding(
        self, y: torch.Tensor, x: torch.Tensor, lora_b_stacked: torch.Tensor, add_inputs: bool = True, **kwargs: Any
    ) -> None:
        """Adds what the adapters change of the embeddings."""
        expand(self._token_rows, y, x, lora_b_stacked, add_inputs)

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        *,
        buffer: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        """Adds what the adapters change of the logits."""
        rows = self._sampler_rows if self._prompt_rows is None else self._prompt_rows
        x = x.view(-1, x.shape[-1])
        if buffer is None:
            buffer = torch.empty((x.size(0), lora_b_stacked.size(-1)), dtype=torch.float32, device=x.device)
        shrink(rows, buffer, x, lora_a_stacked, scale)
        expand(rows, y.view(-1, y.shape[-1]), buffer, lora_b_stacked, add_inputs=True)


def shrink(rows: Rows, y: torch.Tensor, x: torch.Tensor, weights: torch.Tensor, scale: float) -> None:
    """Sets `y` to the product of `x` with the first matrix of each row's adapter, and to zero where there is none."""
    y.zero_()
    for slot, own in rows:
        matrix = _matrix(weights, slot).to(y.dtype)
        y[own, : len(matrix)] = scale * (x[own].to(y.dtype) @ matrix.T)


def expand(rows: Rows, y: torch.Tensor, x: torch.Tensor, weights: torch.Tensor, add_inputs: bool) -> None:
    """Adds to `y` the product of `x` with the second matrix of each row's adapter."""
    if not add_inputs:
        y.zero_()
    for slot, own in rows:
        # `y` has fewer columns than the matrix has rows, or more, where one of both was padded.
        matrix = _matrix(weights, slot)[: y.shape[1]].to(y.dtype)
        y[own, : len(matrix)] += x[own].to(y.dtype) @ matrix.T


def _matrix(weights: torch.Tensor, slot: int) -> torch.Tensor:
    return weights[slot].view(weights.shape[-2:])


class PromptLogits(CPUModelRunner):  # type: ignore[misc]
    """vLLM's CPU model runner, which computes the logits of prompts for one request at a time."""

    #: How many log probabilities of its prompt each request gets; vLLM's own.
    num_prompt_logprobs: dict[str, int]

    def _get_prompt_logprobs_dict(
        self, hidden_states: torch.Tensor, num_scheduled_tokens: dict[str, int]
    ) -> dict[str, Any]:
        """Returns the log probabilities of the prompts that end in this step, computed request by request."""
        requested = self.num_prompt_logprobs
        if not requested:
            return {}
        found: dict[str, Any] = {}
        try:
            for request_id in [name for name in requested if name in num_scheduled_tokens]:
                self.num_prompt_logprobs = {request_id: requested[request_id]}
                with self._adapters.logits_of_one_request(self._slot(request_id)):
                    found |= super()._get_prompt_logprobs_dict(hidden_states, num_scheduled_tokens)
                if not self.num_prompt_logprobs:  # its prompt is complete
                    del requested[request_id]
        finally:
            self.num_prompt_logprobs = requested
        return found

    @property
    def _adapters(self) -> AdapterRows:
        """The products of the language model, to which the logits belong; vLLM makes it before those of its towers."""
        wrapper: AdapterRows = next(iter(_wrappers(self)))
        return wrapper

    def _slot(self, request_id: str) -> int:
        batch = self.input_batch
        adapter = int(batch.request_lora_mapping[batch.req_id_to_index[request_id]])
        slots: list[int | None] = self.lora_manager._adapter_manager.lora_index_to_id
        return slots.index(adapter) if adapter > 0 else NO_ADAPTER


def _wrappers(runner: CPUModelRunner) -> Collection[Any]:
    wrappers: Collection[Any] = runner.lora_manager._adapter_manager.punica_wrapper_mapping.values()
    return wrappers


class LoraCpuWorker(CPUWorker):  # type: ignore[misc]
    """vLLM's CPU worker, whose LoRA products are those above."""

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Loads the model and replaces how adapters are applied to it."""
        super().load_model(*args, **kwargs)
        # vLLM makes both objects itself and takes no class for them. Neither subclass has fields to be set up.
        self.model_runner.__class__ = PromptLogits
        for wrapper in _wrappers(self.model_runner):
            wrapper.__class__ = AdapterRows
