"""The plan of a deployment for people and as JSON. Amounts are exact: JSON has them as texts of decimals."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vllm_service.deployment.difference import Difference
from vllm_service.deployment.plan import BUSY_HOURS, BYTES_PER_GB, Plan, PoolLine
from vllm_service.deployment.pools import per_second
from vllm_service.deployment.sizes import REST_FORMULA, ModelSizes
from vllm_service.deployment.unknown import Unknown

UNKNOWN = "unknown"


def to_json(plan: Plan) -> dict[str, Any]:
    """Returns the document of `deploy plan --json`. Dollars are texts; what is not known is null."""
    spec, volume = plan.spec, plan.spec.volume
    return {
        "name": spec.name,
        "model": spec.model,
        "revision": spec.revision,
        "image": spec.image,
        "sizes": _sizes_json(plan),
        "prices_from": plan.prices_from,
        "pools": [_line_json(line) for line in plan.lines],
        "chosen_pools": [*plan.pools],
        "volume": None
        if volume is None
        else {"name": volume.name, "size_gb": volume.size_gb, "usd_per_month": _amount(plan.volume_usd_per_month)},
        "is_compared": plan.differences is not None,
        "endpoint_id": plan.endpoint_id,
        "differences": [_difference_json(difference) for difference in plan.differences or ()],
        "notes": [*plan.notes],
    }


def show(plan: Plan, console: Console) -> None:
    """Prints the plan."""
    _say(console, f"{plan.spec.name}: {plan.spec.model} on {plan.spec.image}")
    for line in _sizes_lines(plan):
        _say(console, line)
    console.print(_pools_table(plan))
    _say(console, f"Prices from {plan.prices_from}, for a flex worker; a month is 30 days.")
    if plan.volume_usd_per_month is not None and plan.spec.volume is not None:
        volume = plan.spec.volume
        _say(
            console,
            f"The volume {volume.name} of {volume.size_gb} GB costs ${plan.volume_usd_per_month:,.2f} of each month.",
        )
    _show_differences(plan, console)
    for note in plan.notes:
        console.print(Text(f"note: {_printable(note)}", style="yellow"), soft_wrap=True)


def _sizes_json(plan: Plan) -> dict[str, Any]:
    sizes = plan.sizes
    need = sizes.need
    return {
        "source": sizes.source,
        "weights_bytes": _known(sizes.weights_bytes),
        "kv_cache_bytes_per_token": None if isinstance(sizes.kv_cache, Unknown) else sizes.kv_cache.bytes_per_token,
        "context_tokens": _known(sizes.context_tokens),
        "concurrency": plan.spec.concurrency,
        "bytes_per_gpu": None
        if isinstance(need, Unknown)
        else {
            "weights": need.weights_bytes,
            "kv_cache": need.kv_cache_bytes,
            "rest": need.rest_bytes,
            "total": need.total_bytes,
        },
        "rest_formula": REST_FORMULA,
        "unknown": _reasons(sizes),
    }


def _line_json(line: PoolLine) -> dict[str, Any]:
    return {
        "pool": line.pool.id,
        "gpus": [*line.pool.gpus],
        "memory_gb": line.pool.memory_gb,
        "gpus_per_worker": line.gpus_per_worker,
        "usd_per_second": None if line.usd_per_hour is None else _amount(per_second(line.usd_per_hour)),
        "usd_per_hour": _amount(line.usd_per_hour),
        "usd_per_month": {str(hours): _amount(usd) for hours, usd in zip(BUSY_HOURS, line.usd_per_month, strict=True)},
        "stock": line.pool.stock,
        "holds": line.holds,
        "spare_bytes_per_gpu": _known(line.spare_bytes),
        "cold_start_seconds": line.cold_start_seconds,
        "is_chosen": line.is_chosen,
    }


def _difference_json(difference: Difference) -> dict[str, Any]:
    return {
        "field": difference.field,
        "before": difference.before,
        "after": difference.after,
        "cannot_change": difference.cannot_change,
    }


def _sizes_lines(plan: Plan) -> list[str]:
    sizes, need = plan.sizes, plan.sizes.need
    if isinstance(need, Unknown):
        known = "" if isinstance(sizes.weights_bytes, Unknown) else f"Weights {_gb(sizes.weights_bytes)}. "
        return [f"{known}What the model needs is unknown: {reason}." for reason in _reasons(sizes)]
    each = " on each GPU" if plan.spec.gpus_per_worker > 1 else ""
    per_token = 0 if isinstance(sizes.kv_cache, Unknown) else sizes.kv_cache.bytes_per_token
    conversations = "conversation" if plan.spec.concurrency == 1 else "conversations"
    return [
        f"It needs {_gb(need.total_bytes)}{each}: weights {_gb(need.weights_bytes)} ({sizes.source}), KV cache "
        f"{_gb(need.kv_cache_bytes)} for {plan.spec.concurrency:,} {conversations} of {sizes.context_tokens:,} tokens "
        f"({per_token:,} bytes a token), the rest {_gb(need.rest_bytes)} (an estimate)."
    ]


def _pools_table(plan: Plan) -> Table:
    months = [f"$/month, {hours} h a day" for hours in BUSY_HOURS]
    table = Table("", "pool", "GPUs", "GB", "$/s", "holds it", "stock", "cold start", *months)
    for line in plan.lines:
        gpus = ", ".join(line.pool.gpus)
        table.add_row(
            "*" if line.is_chosen else "",
            Text(_printable(line.pool.id)),
            Text(_printable(gpus if line.gpus_per_worker == 1 else f"{line.gpus_per_worker} x {gpus}")),
            str(line.pool.memory_gb),
            UNKNOWN if line.usd_per_hour is None else f"{per_second(line.usd_per_hour):f}",
            _holds(line),
            line.pool.stock or UNKNOWN,
            UNKNOWN if line.cold_start_seconds is None else f"{line.cold_start_seconds:.0f} s",
            *(UNKNOWN if usd is None else f"{usd:,.2f}" for usd in line.usd_per_month),
        )
    return table


def _holds(line: PoolLine) -> str:
    if isinstance(line.spare_bytes, Unknown):
        return UNKNOWN
    if line.spare_bytes >= 0:
        return f"yes, {_gb(line.spare_bytes)} spare"
    return f"no, {_gb(-line.spare_bytes)} short"


def _show_differences(plan: Plan, console: Console) -> None:
    if plan.differences is None:
        _say(console, "Nothing was compared with RunPod: RUNPOD_API_KEY is not set, or --offline is given.")
        return
    if plan.endpoint_id is None:
        _say(console, f"RunPod has no endpoint {plan.spec.name}; apply makes it.")
    elif not plan.differences:
        _say(console, f"The endpoint {plan.endpoint_id} is as specified; apply changes nothing.")
    if plan.differences:
        table = Table("field", "at RunPod", "specified")
        for difference in plan.differences:
            after = _value(difference.after) + (" (RunPod cannot change it)" if difference.cannot_change else "")
            table.add_row(Text(_printable(difference.field)), Text(_value(difference.before)), Text(after))
        console.print(table)


def _value(value: Any) -> str:
    if value is None:
        return "-"
    return _printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def _reasons(sizes: ModelSizes) -> list[str]:
    figures = (sizes.weights_bytes, sizes.kv_cache, sizes.context_tokens, sizes.need)
    return [*dict.fromkeys(figure.reason for figure in figures if isinstance(figure, Unknown))]


def _known(figure: int | Unknown) -> int | None:
    return None if isinstance(figure, Unknown) else figure


def _amount(usd: Decimal | None) -> str | None:
    return None if usd is None else f"{usd.normalize():f}"


def _gb(size_bytes: int) -> str:
    if size_bytes < BYTES_PER_GB // 10:
        return f"{Decimal(size_bytes) / 10**6:,.1f} MB"
    return f"{Decimal(size_bytes) / BYTES_PER_GB:,.1f} GB"


def _say(console: Console, text: str) -> None:
    console.print(_printable(text), markup=False, highlight=False, soft_wrap=True)


def _printable(text: str) -> str:
    """Returns the text without what a terminal would obey: names come from RunPod and from files."""
    return "".join(mark if mark.isprintable() else "?" for mark in text)
