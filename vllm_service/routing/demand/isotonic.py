"""The nearest sequence that never rises: what each further worker adds is no more than what the one before it did."""

from __future__ import annotations


def isotonic_decreasing(values: list[float]) -> list[float]:
    """Pooled neighbours. Sums from the first on are never lower than those of `values`, and as low as they can be."""
    pools: list[tuple[float, int]] = []
    for value in values:
        total, count = value, 1
        while pools and pools[-1][0] * count < total * pools[-1][1]:
            last_total, last_count = pools.pop()
            total, count = total + last_total, count + last_count
        pools.append((total, count))
    return [total / count for total, count in pools for _ in range(count)]
