"""The bill as a table on the terminal."""

from __future__ import annotations

from rich.table import Table

from runpod_emulator.billing.bill import Bill, usd_text


def bill_table(endpoint_id: str, bill: Bill) -> Table:
    """Returns a table with one row per worker, and the total below. Prices are in the title where they are one."""
    prices = {line.usd_per_second for line in bill.lines} or {bill.usd_per_second}
    has_prices = len(prices) > 1
    at_price = "" if has_prices else f" at ${usd_text(min(prices))} per second"
    table = Table(title=f"RunPod bill of endpoint {endpoint_id}{at_price}", show_footer=True)
    table.add_column("worker", footer="total")
    for name in ("cold start s", "running s", "idle s"):
        table.add_column(name, justify="right")
    table.add_column("billed s", justify="right", footer=str(bill.billed_seconds))
    if has_prices:
        table.add_column("USD/s", justify="right")
    table.add_column("USD", justify="right", footer=usd_text(bill.total_usd))
    table.add_column("exit", justify="right")
    for line in bill.lines:
        phases = (line.cold_start_seconds, line.running_seconds, line.idle_seconds)
        seconds = [f"{phase:.1f}" for phase in phases]
        price = [usd_text(line.usd_per_second)] if has_prices else []
        ended = "-" if line.exit_code is None else str(line.exit_code)
        table.add_row(line.worker_id, *seconds, str(line.billed_seconds), *price, usd_text(line.usd), ended)
    return table
