"""`make deploy-demo`: a newcomer sees plan, apply, a real answer, status and destroy, without an account."""

from __future__ import annotations

import re
from pathlib import Path

from tests.e2e.process import run


async def test_one_command_shows_a_deployment_from_its_plan_to_its_end(tmp_path: Path) -> None:
    ended = await run("-m", "scripts.deploy_demo", "--directory", str(tmp_path))
    assert ended.code == 0, ended.stdout + ended.stderr
    shown = ended.stdout
    typed = re.findall(r"\$ python -m vllm_service deploy (\w+)", shown)
    assert typed == ["plan", "apply", "apply", "status", "destroy"]
    assert shown.count("answered in") == 2
    assert shown.count("The capital of France is Paris.") == 2
    assert re.search(r"Its cold start took [\d.]+ s, \$0\.00\d+:", shown)
    assert "nothing had to be changed" in shown
    assert "deleted: network volume" in ended.stderr
    assert "Nothing is left." in shown
    # The titles stand before what they announce, although other processes print that.
    assert shown.index("$ python -m vllm_service deploy plan") < shown.index("It needs ") < shown.index("deploy apply")
    assert "endpoint_id:" in (tmp_path / "providers.yaml").read_text()
