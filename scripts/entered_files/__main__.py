"""`python -m scripts.entered_files [WAY ...] [--tree PATH] [--against PATH] [--json]`: the files that a request enters.

gateway  One non-streaming chat request to `python -m vllm_service serve` with a key, quotas and the SQLite ledger, over
         a kept connection: from the first byte read to the row handed to the ledger.
worker   One streaming job to `python handler.py` behind the emulator, with a paced upstream as its engine (with --vllm:
         the demo model): from the job offered to its result posted.
router   One LLMRouter.generate at a hosted provider: from the call to its return.

The rule: a file is entered when the body of a function that is defined in it begins, in any thread, in this time.
A lambda and a comprehension are functions. A coroutine that is resumed is not entered again. A generated method, such
as the __init__ of a dataclass, is in no file. Imports and first-time set-ups do not count: two requests of the same
kind come before. Of five requests the one with the fewest files, then calls, counts: periodic work is in some
and not into others. "functions" counts different functions. "changes" is how often a call is in another file than the
call before it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from functools import partial
from itertools import zip_longest
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.worker_stack import ROOT
from scripts.entered_files.counting import BARS, Walk
from scripts.entered_files.driven import WALKS, worker_walk

Walks = dict[str, Walk]
FIGURES = ("files", "functions", "changes")


async def walks_of(tree: Path, names: list[str], *, with_vllm: bool) -> Walks:
    """Drives and traces each way in turn."""
    drivers = WALKS | ({"worker": partial(worker_walk, with_vllm=True)} if with_vllm else {})
    return {name: await drivers[name](tree) for name in names}


def figures_table(trees: dict[str, Walks]) -> Table:
    """Returns a table with a row for each way and the figures of each tree."""
    table = Table(title="What one request enters")
    table.add_column("way")
    for title in trees:
        for figure in FIGURES:
            table.add_column(f"{figure}, {title}", justify="right")
    table.add_column("bar, files", justify="right")
    for name in next(iter(trees.values())):
        documents = [walks[name].to_json(name) for walks in trees.values()]
        cells = [str(document[figure]) for document in documents for figure in FIGURES]
        table.add_row(name, *cells, str(BARS[name]))
    return table


def files_table(name: str, trees: dict[str, Walks]) -> Table:
    """Returns a table of the files in the order of their first entry, the trees side by side."""
    table = Table(title=f"{name}: files in the order of their first entry")
    table.add_column("", justify="right")
    for title in trees:
        table.add_column(title)
    columns = [list(walks[name].files) for walks in trees.values()]
    for number, row in enumerate(zip_longest(*columns, fillvalue=""), 1):
        table.add_row(str(number), *row)
    return table


def main() -> int:
    """Prints the tables, or one JSON document with every function by file."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.entered_files",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("ways", nargs="*", metavar="WAY", help=f"one of {', '.join(WALKS)} (default: all)")
    parser.add_argument("--tree", type=Path, default=ROOT, help="the checkout to measure (default: this one)")
    parser.add_argument("--against", type=Path, help="another checkout, to be printed beside it")
    parser.add_argument("--vllm", action="store_true", help="use vLLM with the demo model as the worker's engine")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args()
    if unknown := set(options.ways) - set(WALKS):
        parser.error(f"unknown WAY: {', '.join(sorted(unknown))}; known: {', '.join(WALKS)}")
    trees = {"tree": options.tree.resolve()} | ({"against": options.against.resolve()} if options.against else {})
    walked = {
        title: asyncio.run(walks_of(tree, options.ways or list(WALKS), with_vllm=options.vllm))
        for title, tree in trees.items()
    }
    if options.json:
        documents = {
            title: {"path": str(trees[title]), **{name: walk.to_json(name) for name, walk in walks.items()}}
            for title, walks in walked.items()
        }
        sys.stdout.write(json.dumps(documents) + "\n")
        return 0
    console = Console(width=160)
    for name in walked["tree"]:
        console.print(files_table(name, walked))
    console.print(figures_table(walked))
    return 0


if __name__ == "__main__":
    sys.exit(main())
