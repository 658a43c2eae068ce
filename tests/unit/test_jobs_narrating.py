"""What `bridge run` says while Snakemake works: read from its words and from heartbeats."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.jobs.narrating import Lines, Narrator, work_of
from bridge.machine.telemetry import beat
from bridge.plan.grid import load_plan
from bridge.store.records import read_json, write_json

PLAN = """\
Building DAG of jobs...
Job stats:
job         count
--------  -------
prepare         1
train           4
evaluate        4
collect         1
all             1
total          11

Select jobs to execute...
"""
WORK = {"prepare": 10.0, "train": 20.0, "evaluate": 5.0, "collect": 10.0}


@pytest.fixture
def narrator(tmp_path: Path) -> Narrator:
    found = Narrator(tmp_path, WORK)
    assert list(found.hear(PLAN, 0.0)) == []
    return found


def finish(narrator: Narrator, rule: str, now: float) -> None:
    list(narrator.hear(f"[Sat]\nFinished jobid: 5 (Rule: {rule})\n1 of 11 steps (8%) done\n", now))


def test_stages_count_jobs_by_rule(narrator: Narrator) -> None:
    finish(narrator, "prepare", 1.0)
    finish(narrator, "train", 2.0)
    assert narrator.stages() == {
        "base models": "1 of 1",
        "training": "1 of 4",
        "evaluation": "0 of 4",
        "tables and report": "0 of 1",
    }


def test_what_is_under_way_is_told_by_heartbeats(narrator: Narrator, tmp_path: Path) -> None:
    beat(tmp_path / "models" / ".qwen2.5.heartbeat.json", 3, 8, 1.0)
    beat(tmp_path / "runs/m/d/sft/seed1/heartbeat.json", 45, 200, 1.0)
    warm_up = tmp_path / "models/.pocket-warm.work/warm_up/runs/pocket-warm/warm_up/sft/seed0"
    beat(warm_up / "heartbeat.json", 1, 9, 1.0)
    said = narrator.stages()
    assert said["base models"] == "0 of 1  qwen2.5 step 3/8, pocket-warm step 1/9"
    assert said["training"] == "0 of 4  m/d/sft/seed1 step 45/200"


def test_the_time_left_is_that_of_the_whole_plan(narrator: Narrator, tmp_path: Path) -> None:
    """Of 120 predicted seconds 10 are done after 4: 44 are left. Half a run more: 20 of 120."""
    assert narrator.left_s(3.0) is None
    finish(narrator, "prepare", 4.0)
    assert narrator.left_s(4.0) == pytest.approx(110 * 4 / 10)
    beat(tmp_path / "runs/m/d/sft/seed1/heartbeat.json", 100, 200, 1.0)
    assert narrator.left_s(4.0) == pytest.approx(100 * 4 / 20)
    assert narrator.total_line(4.0) == "about 0:20 left"


def test_words_that_come_in_pieces(tmp_path: Path) -> None:
    narrator = Narrator(tmp_path, WORK)
    text = PLAN + "Finished jobid: 9 (Rule: train)\n"
    for start in range(0, len(text), 7):
        list(narrator.hear(text[start : start + 7], 0.0))
    assert narrator.stages()["training"] == "1 of 4"


def test_our_own_sentences_are_passed_on_at_once(tmp_path: Path) -> None:
    narrator = Narrator(tmp_path, WORK)
    said = "Config file ...\nbridge: suites/x.yaml: title: this key is required.\n"
    assert list(narrator.hear(said, 0.0)) == ["bridge: suites/x.yaml: title: this key is required."]


def test_a_failure_is_counted_and_its_reason_is_said_last(narrator: Narrator) -> None:
    list(narrator.hear("Error in rule train:\n    jobid: 7\n    shell:\n", 1.0))
    end = "Exiting because a job failed.\nfailed: a.log\n    bridge: why.\nComplete log(s): x\n"
    list(narrator.hear(end, 2.0))
    assert narrator.total_line(2.0) == "time left: not known yet; 1 failed"
    assert narrator.last_words() == ["failed: a.log", "    bridge: why.", "Complete log(s): x"]


def test_a_log_gets_few_lines(narrator: Narrator, capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    for second in range(50):
        if second % 5 == 0:
            finish(narrator, "evaluate", float(second))
        lines.show(narrator, float(second))
    lines.close(narrator, 51.0)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 4, "every 20 seconds, and the last state"
    assert "evaluation 1 of 4" in said[0] and "evaluation 10 of 4" in said[-1]


def test_the_work_of_each_rule_is_predicted(root: Path, tmp_path: Path) -> None:
    work = work_of(load_plan("matrix", root=root), tmp_path)
    assert work.keys() >= {"prepare", "train", "evaluate", "collect", "tables", "draw", "report"}
    assert work["prepare"] > work["train"] > work["collect"] > 0


def test_a_dead_process_does_no_work(narrator: Narrator, tmp_path: Path) -> None:
    path = tmp_path / "runs/m/d/sft/seed1/heartbeat.json"
    beat(path, 100, 200, 1.0)
    assert narrator.stages()["training"] != "0 of 4"
    write_json(path, read_json(path) | {"updated_at": 1.0})
    assert narrator.stages()["training"] == "0 of 4"
