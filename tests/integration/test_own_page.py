"""``docs/how-to/your-own.md``: its files are written and its commands run, in the page's order.

The workflow's own jobs are run in this process: each job of a suite imports torch only once.
"""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bridge.jobs import cli
from bridge.plan.grid import load_plan
from bridge.store.records import read_json, read_jsonl
from tests.fixtures.released import KINDS, make_released

PAGE = "docs/how-to/your-own.md"


@pytest.fixture
def here(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder but for the workflow, and a model that answers seven."""
    for name in ("Snakefile", "rules", "bridge", "envs", "report", "claims.yaml"):
        (tmp_path / name).symlink_to(root / name)
    shutil.copy(root / "config.yaml", tmp_path)
    (tmp_path / "suites").mkdir()
    words = [
        "What",
        "is",
        "plus",
        "?",
        "Put",
        "the",
        "final",
        "answer",
        "within",
        *map(str, range(19)),
    ]
    make_released(
        tmp_path / "models/mine",
        KINDS["qwen-base"],
        words=words,
        answer=["so", r"\boxed{7}", "<|im_end|>"],
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_leads_to_a_table(
    here: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (root / PAGE).read_text(encoding="utf-8")
    blocks = re.findall(r"```(python|console)\n(.*?)```", text, re.DOTALL)
    for number, (kind, block) in enumerate(blocks):
        if kind == "console":
            for line in block.splitlines():
                run(shlex.split(line))
        elif "def last_number" in block:
            (here / "rewards.py").write_text(block)
        else:
            (here / f"block{number}.py").write_text(block)
            runpy.run_path(str(here / f"block{number}.py"))
    shown = capsys.readouterr().out
    assert all(row in shown for row in ("Base", "SFT", "RL-zero", "Cold-start"))
    folder = load_plan("mine", root=here).run("mine", "mine", "base", 0).folder(Path("results"))
    # Of the 20 test questions, sums that 5 divides, none is 7.
    assert read_json(folder.scores)["benchmarks"]["sums_test"]["correct"] == 0
    assert {r["verdict"] for r in read_jsonl(folder.answers)} == {"wrong"}
    counted(here)


def counted(here: Path) -> None:
    """The same base under the reward of the page, trained one step and evaluated."""
    path = here / "suites/counted.yaml"
    raw = yaml.safe_load(path.read_text())
    raw["methods"] = {"rl_zero": {"options": {"steps": 1}}}
    raw["grid"][0]["methods"] = ["rl_zero"]
    path.write_text(yaml.safe_dump(raw))
    (spec,) = load_plan("counted", root=here).runs
    jobs("counted")
    line = read_jsonl(spec.folder(Path("results")).dynamics)[-1]
    assert line["unparsed_share"] == 0, "the function found a number in each answer"


def run(words: list[str]) -> None:
    """One command of the page."""
    if words[0] == "bridge":
        cli.main(words[1:])
    elif "-n" in words:
        command = [sys.executable, "-m", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "train" in done.stdout
    else:
        jobs(words[-1].partition("=")[2])


def jobs(suite: str) -> None:
    """The jobs of a suite, up to its tidy tables."""
    for spec in load_plan(suite, root=Path()).runs:
        names = ["--model", spec.model, "--dataset", spec.dataset, "--method", spec.label]
        for job in ("train", "evaluate"):
            cli.main([job, "--suite", suite, *names, "--seed", str(spec.seed)])
    cli.main(["collect", "--suite", suite])
