"""The scripts under benchmarks/ run: those of `make bench` go the whole way on a tiny model, the
others can be asked what they do."""

from __future__ import annotations

import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import passes
from benchmarks.passes import PARTS
from benchmarks.performance_page import TABLES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ASKED = sorted(
    path.stem
    for path in (ROOT / "benchmarks").glob("*.py")
    if "ArgumentParser" in path.read_text(encoding="utf-8")
    and path.stem not in {part.module for part in PARTS.values()}
)


@pytest.mark.parametrize("name", ASKED)
def test_a_script_says_what_it_does(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model that both the BRIDGE step and TRL can train."""
    found = passes.quick_base(tmp_path_factory.mktemp("llama") / "base")
    assert found is not None
    return found


def test_a_point_that_dies_is_written_down(tmp_path: Path) -> None:
    from benchmarks.sizes import forked

    def dies() -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGKILL)
        return {}

    def fails() -> dict[str, Any]:
        raise MemoryError("no room")

    said = tmp_path / "said"
    assert forked(dies, said) == {"failed": "ended with signal 9; too little memory?"}
    assert forked(fails, said) == {"failed": "MemoryError: no room"}
    assert forked(lambda: {"cpu_s": 1.0}, said) == {"cpu_s": 1.0}


@pytest.mark.parametrize("name", [n for n in PARTS if n != "planning"])  # has a file of its own
def test_a_part_of_make_bench_goes_the_whole_way(
    name: str, llama: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Starting vLLM takes a minute, and tests must not depend on a folder beside.
    monkeypatch.setattr(passes, "VLLM_PYTHON", Path("none"))
    monkeypatch.setattr(passes, "TRL", Path("none"))
    found = passes.measured(name, quick=True, base=llama)
    assert found is not None, capsys.readouterr().out
    assert TABLES[name](found["numbers"]) if found["numbers"] else found["missing"]
    peer = {"grpo": "TRL", "sizes": "TRL", "rollouts": "vLLM"}.get(name)
    if peer is not None:
        (sentence,) = found["missing"]
        assert sentence.startswith(f"{peer} is not installed")
        assert f"bench: {name}: {sentence}" in capsys.readouterr().out
