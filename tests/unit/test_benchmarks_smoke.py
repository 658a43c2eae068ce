"""The scripts under benchmarks/ run: each can be asked what it does, and the one behind a number in
the documentation goes the whole way on a tiny model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.tiny_run import make_base

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ASKED = sorted(
    path.stem
    for path in (ROOT / "benchmarks").glob("*.py")
    if "ArgumentParser" in path.read_text(encoding="utf-8") and path.stem != "against_trl"
)
"""Without the comparison with TRL, which needs an environment that has it."""


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("name", ASKED)
def test_a_script_says_what_it_does(name: str) -> None:
    assert "usage:" in run(f"benchmarks.{name}", "--help")


def test_the_cost_of_a_bridge_step_is_measured(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", steps=10, context_tokens=160)
    said = run("benchmarks.bridge_cost", "--policy", str(base), "--repetitions", "2")
    assert "BRIDGE over RL step + SFT gradient + RL gradient, CPU seconds: " in said
    assert "held for the whole run" in said
