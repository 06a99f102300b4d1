"""Which test files stay together, and which begin first, when the tests run in several processes (`pytest -n 2`).

A file is never divided. Files that share something dear, such as an engine or a wheel, are one group, so that it is
made once. The longest groups begin first: what is left at the end is short, and no process waits for another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling

# Name of the group, and the files or folders in it; the longest first. Every other file is a group of its own.
GROUPS: dict[str, tuple[str, ...]] = {
    "engine": (  # one vLLM in the process of the tests
        "tests/contract/",
        "tests/e2e/test_demo_answers.py",
        "tests/e2e/test_lora_batches.py",
        "tests/e2e/test_malformed_jobs.py",
        "tests/e2e/test_heavy_requests.py",
        "tests/test_documentation.py",
        "tests/vllm_service/gateway/test_token_counting.py",
    ),
    "endpoint": ("tests/e2e/client/",),  # one emulated endpoint with a worker
    "chaos": ("tests/e2e/test_chaos.py",),
    "wheel": ("tests/wheel/",),
    "storage": ("tests/vllm_service/storage/",),  # one Postgres, one Redis
}
# Folders whose files begin before those of the others.
EARLY = ("tests/e2e/", "tests/handler/model_cache/", "tests/vllm_service/resilience/", "tests/scripts/")


def group_of(nodeid: str) -> str:
    """The group of a test: a name of the table, or else its file."""
    file = nodeid.partition("::")[0]
    return next((name for name, members in GROUPS.items() if file.startswith(members)), file)


def rank_of(nodeid: str) -> int:
    """The groups of the table come in its order, then the early folders, then the rest."""
    group = group_of(nodeid)
    if group in GROUPS:
        return list(GROUPS).index(group)
    return len(GROUPS) + next((at for at, folder in enumerate(EARLY) if group.startswith(folder)), len(EARLY))


def scheduling(config: Any, log: Any) -> LoadScopeScheduling:
    """Gives the next group to the process that is free, in the order of collection."""
    from xdist.scheduler import LoadScopeScheduling

    class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    config.option.loadscopereorder = False  # by their number of tests, which says little of their time
    return GroupScheduling(config, log)
