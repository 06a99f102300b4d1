"""LoRA on a CPU touches the tokens of its adapters and no others; what is replaced of vLLM is still what it was."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import vllm
from vllm.config.lora import LoRAConfig
from vllm.lora.layers import LoRAMapping
from vllm.lora.ops.torch_ops import bgmv_expand
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms.cpu import CpuPlatform
from vllm.v1.worker.cpu_model_runner import CPUModelRunner
from vllm.v1.worker.cpu_worker import CPUWorker

from handler.engine import vllm_parts
from handler.engine.cpu_lora import NO_ADAPTER, AdapterRows, LoraCpuWorker, PromptLogits, rows_by_slot
from handler.errors import ConfigurationError
from handler.settings import WorkerSettings

CHANGED = "vLLM has changed what handler/engine/cpu_lora.py replaces: "
WIDTH, RANK, OUT, VOCABULARY = 16, 4, 24, 30


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """A pool of threads would be torn apart where a later test forks an engine core from this process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_vllms_own_kernels_still_take_the_last_adapter_for_a_token_without_one() -> None:
    """When this fails, vLLM has mended it: see whether cpu_lora is still needed."""
    weights, out = torch.ones(2, 1, 3, 4), torch.zeros(1, 3)
    bgmv_expand(torch.ones(1, 4), weights, out, torch.tensor([NO_ADAPTER]))
    assert out.tolist() == [[4.0, 4.0, 4.0]]


@pytest.mark.parametrize("kernel", ["lora_shrink_op.py", "lora_expand_op.py"])
def test_the_kernels_for_gpus_do_nothing_for_a_token_without_an_adapter(kernel: str) -> None:
    source = (Path(vllm.__file__).parent / "lora/ops/triton_ops" / kernel).read_text()
    assert "if lora_id == -1:\n        # Early exit for the no-lora case.\n        return" in source, CHANGED + kernel


def test_what_is_replaced_is_still_there() -> None:
    assert CpuPlatform.get_punica_wrapper() == f"{PunicaWrapperCPU.__module__}.{PunicaWrapperCPU.__name__}", CHANGED
    for name in ("_apply_shrink", "_apply_expand", "add_lora_embedding", "add_lora_logits"):
        theirs, ours = (list(inspect.signature(getattr(kind, name)).parameters) for kind in AdapterRows.__mro__[:2])
        assert ours == theirs, CHANGED + name
    assert issubclass(LoraCpuWorker, CPUWorker)
    assert f"{CPUWorker.__module__}.{CPUWorker.__name__}" == vllm_parts.CPU_WORKER
    assert f"{LoraCpuWorker.__module__}.{LoraCpuWorker.__name__}" == vllm_parts.LORA_CPU_WORKER
    replaced = {name for name, value in vars(PunicaWrapperCPU).items() if inspect.isfunction(value)}
    assert replaced == {
        *("__init__", "_shrink_prefill", "_shrink_decode", "_expand_prefill", "_expand_decode"),
        *("_expand_slice_prefill", "_expand_slice_decode", "_apply_expand", "_apply_shrink", "add_shrink"),
        *("add_expand", "add_lora_embedding", "add_lora_linear", "add_lora_logits", "apply_lora_full_linear"),
    }, CHANGED + "there is a product more, or one less"


def test_the_logits_of_a_prompt_are_still_those_of_one_request() -> None:
    source = inspect.getsource(CPUModelRunner._get_prompt_logprobs_dict)
    for line in (
        "num_prompt_logprobs_dict = self.num_prompt_logprobs",
        "for req_id, num_prompt_logprobs in num_prompt_logprobs_dict.items():",
        "logits = self.model.compute_logits(prompt_hidden_states)",
        "del num_prompt_logprobs_dict[req_id]",
    ):
        assert line in source, CHANGED + "_get_prompt_logprobs_dict"
    assert issubclass(PromptLogits, CPUModelRunner)


def test_nothing_is_compiled_that_would_keep_the_rows_of_an_earlier_step() -> None:
    source = inspect.getsource(CpuPlatform.check_and_update_config)
    lines = [line.strip() for line in source.splitlines()]
    at = lines.index("if vllm_config.lora_config is not None:")
    assert lines[at + 1] == "compilation_config.mode = CompilationMode.NONE", CHANGED + "compilation"


@pytest.mark.parametrize(
    ("slots", "rows"),
    [
        ([-1, -1], {}),
        ([0, 0, 0], {0: [0, 1, 2]}),
        ([-1, 0, -1], {0: [1]}),
        ([2, -1, 0, 2], {0: [2], 2: [0, 3]}),
        ([], {}),
    ],
)
def test_a_row_is_its_adapters_or_nobodys(slots: list[int], rows: dict[int, list[int]]) -> None:
    found = {
        slot: own.tolist() if isinstance(own, torch.Tensor) else list(range(len(slots)))[own]
        for slot, own in rows_by_slot(torch.tensor(slots, dtype=torch.long))
    }
    assert found == rows


def products(max_loras: int, adapters: list[int | None], tokens: list[int], requests: list[int]) -> AdapterRows:
    """The products of a step in which each token, and each request, has the adapter with that number; 0 is none."""
    wrapper = AdapterRows(64, 64, "cpu", lora_config=LoRAConfig(max_loras=max_loras))
    wrapper.update_metadata(
        LoRAMapping(tuple(tokens), tuple(requests), is_prefill=True), adapters, max_loras + 1, VOCABULARY
    )
    return wrapper


def weights(slots: int, columns: int, rows: int, seed: int) -> torch.Tensor:
    return torch.randn(slots, 1, rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("max_loras", [1, 2, 4])
@pytest.mark.parametrize("seed", range(5))
def test_every_token_gets_what_its_own_adapter_adds_and_a_token_without_one_gets_nothing(
    max_loras: int, seed: int
) -> None:
    """All slots are full, the last one too, as they are once there are more adapters than slots."""
    dice = torch.Generator().manual_seed(seed)
    adapters: list[int | None] = [10 + slot for slot in range(max_loras)]
    tokens = torch.randint(0, max_loras + 1, (20,), generator=dice).tolist()
    x, before = torch.randn(20, WIDTH, generator=dice), torch.randn(20, 2 * OUT, generator=dice)
    a = tuple(weights(max_loras, WIDTH, RANK, seed + part) for part in (1, 2))
    b = tuple(weights(max_loras, RANK, OUT, seed + part) for part in (3, 4))
    y = before.clone()
    names = [0 if token == 0 else 9 + token for token in tokens]
    products(max_loras, adapters, names, names[:1]).add_lora_linear(y, x, a, b, 0.5, (OUT, OUT))
    for row, token in enumerate(tokens):
        if token == 0:
            assert torch.equal(y[row], before[row])
            continue
        added = torch.cat([0.5 * b[part][token - 1, 0] @ (a[part][token - 1, 0] @ x[row]) for part in (0, 1)])
        torch.testing.assert_close(y[row], before[row] + added, rtol=1e-4, atol=1e-4)


def test_weights_that_an_evicted_adapter_left_in_a_slot_reach_nobody() -> None:
    y, x = torch.zeros(2, OUT), torch.ones(2, WIDTH)
    wrapper = products(1, [None], [0, 0], [0, 0])
    wrapper.add_lora_linear(y, x, (weights(1, WIDTH, RANK, 1),), (weights(1, RANK, OUT, 2),), 1.0, (OUT,))
    logits = torch.zeros(2, VOCABULARY)
    wrapper.add_lora_logits(logits, x, weights(1, WIDTH, RANK, 1), weights(1, RANK, VOCABULARY, 2), 1.0)
    wrapper.add_lora_embedding(y, torch.ones(2, RANK), weights(1, RANK, OUT, 3))
    assert not y.any()
    assert not logits.any()


def test_not_even_weights_that_are_no_numbers_reach_a_token_without_an_adapter() -> None:
    y, x = torch.ones(2, OUT), torch.ones(2, WIDTH)
    broken = torch.full((1, 1, OUT, RANK), torch.inf)
    products(1, [7], [7, 0], [7, 0]).add_lora_linear(y, x, (weights(1, WIDTH, RANK, 1),), (broken,), 1.0, (OUT,))
    assert torch.equal(y[1], torch.ones(OUT))


@pytest.mark.parametrize(("slot", "changed"), [(0, True), (NO_ADAPTER, False)])
@pytest.mark.parametrize("rows", [1, 3, 17])
def test_the_logits_of_a_prompt_are_changed_by_its_requests_adapter_alone(slot: int, changed: bool, rows: int) -> None:
    """Three requests are in the batch, so three rows would pass for theirs."""
    wrapper = products(1, [7], [7, 0, 7], [7, 0, 7])
    a, b = weights(1, WIDTH, RANK, 1), weights(1, RANK, VOCABULARY, 2)
    x, logits = torch.ones(rows, WIDTH), torch.zeros(rows, VOCABULARY)
    with wrapper.logits_of_one_request(slot):
        wrapper.add_lora_logits(logits, x, a, b, 1.0)
    expected = (b[0, 0] @ (a[0, 0] @ x[0])) if changed else torch.zeros(VOCABULARY)
    torch.testing.assert_close(logits, expected.expand(rows, -1), rtol=1e-4, atol=1e-4)


def test_sampled_logits_follow_their_requests() -> None:
    wrapper = products(2, [7, 8], [7, 7, 0, 8], [7, 0, 8])
    a, b = weights(2, WIDTH, RANK, 1), weights(2, RANK, VOCABULARY, 2)
    logits = torch.zeros(3, VOCABULARY + 2)  # vLLM pads them
    wrapper.add_lora_logits(logits, torch.ones(3, WIDTH), a, b, 1.0)
    for row, slot in ((0, 0), (2, 1)):
        expected = b[slot, 0] @ (a[slot, 0] @ torch.ones(WIDTH))
        torch.testing.assert_close(logits[row, :VOCABULARY], expected, rtol=1e-4, atol=1e-4)
    assert not logits[1].any()
    assert not logits[:, VOCABULARY:].any()


def test_a_worker_of_ones_own_is_refused_with_lora_on_a_cpu() -> None:
    parser = vllm_parts.serve_parser()
    settings = WorkerSettings(environment={"WORKER_CLS": "mine.Worker"})
    arguments = vllm_parts.parse_arguments(vllm_parts.read_command_line(settings, parser), parser)
    with pytest.raises(ConfigurationError, match=r"WORKER_CLS=mine\.Worker: .*ENABLE_LORA"):
        vllm_parts.engine_config(arguments)
