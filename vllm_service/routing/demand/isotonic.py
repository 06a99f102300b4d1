"""Isotonic regression, decreasing: each further worker adds no more than the one before it."""

from __future__ import annotations


def isotonic_decreasing(values: list[float]) -> list[float]:
    """Returns the nearest sequence (least squares) that never rises, by pooling adjacent violators.

    Sums from the first value on are never lower than those of `values`, and as low as they can be: the result is the
    slope of the least concave curve above the running sum. The clairvoyant bound relies on that, since it must never
    credit k workers with less than they save.
    """
    pools: list[tuple[float, int]] = []  # (sum, count) of each run of equal results
    for value in values:
        total = value
        count = 1
        # Compares the two means without dividing: last_total / last_count < total / count.
        while pools and pools[-1][0] * count < total * pools[-1][1]:
            last_total, last_count = pools.pop()
            total += last_total
            count += last_count
        pools.append((total, count))
    return [total / count for total, count in pools for _ in range(count)]
