"""A run whose reward function breaks on the way: one sentence, and nothing lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bridge.grading import GraderError
from bridge.run.loop import train_run
from bridge.store.records import read_json, read_jsonl
from tests.fixtures.tiny_run import make_base, make_spec

pytestmark = pytest.mark.slow

REWARD = """
from pathlib import Path

def counted(question, response, answer):
    count = Path("count")
    seen = int(count.read_text()) if count.exists() else 0
    count.write_text(str(seen + 1))
    if Path("broken").exists() and seen >= int(Path("broken").read_text()):
        return float("nan")
    return len(response) % 2
"""


def test_what_was_trained_before_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rewards.py").write_text(REWARD)
    base = make_base(tmp_path / "base")
    plain = make_spec(base, "rl_zero", options={"steps": 5}, checkpoint_every=1, probe_every=10)
    spec = replace(plain, reward="rewards:counted", reward_hash="0" * 64)
    assert train_run(spec, results=tmp_path / "whole", threads=1) == "done"
    # Broken after three quarters of all answers, so in the middle of the run.
    answers = int((tmp_path / "count").read_text())
    (tmp_path / "broken").write_text(str(answers + answers * 3 // 4))
    folder = spec.folder(tmp_path / "results")
    with pytest.raises(GraderError, match=r"rewards:counted returned nan, not a number") as caught:
        train_run(spec, results=tmp_path / "results", threads=1)
    assert "\n" not in str(caught.value) and not folder.done.exists()
    assert any(folder.resume.iterdir()), "the steps before it are in a checkpoint"
    (tmp_path / "broken").unlink()
    assert train_run(spec, results=tmp_path / "results", threads=1) == "done"
    whole = spec.folder(tmp_path / "whole")
    assert folder.dynamics.read_bytes() == whole.dynamics.read_bytes()
    assert len(read_jsonl(folder.dynamics)) == 6 and read_json(folder.done)["n_steps"] == 5
