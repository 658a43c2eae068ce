"""The lines of a log that say why a job failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.collect.logs import failure_text, lines_that_matter

BEAT = "tiny-qwen/chains/sft/seed0: step {}/40, reward_mean 0.062, 3 s left\n"
PROGRESS = "".join(BEAT.format(step) for step in range(1, 30))
BAR = "Loading: 10%|#         | 1/10\rLoading: 100%|##########| 10/10 [00:01, 8.1it/s]\n"
TRACEBACK = """Traceback (most recent call last):
  File "a.py", line 1, in outer
    inner()
  File "b.py", line 7, in inner
    1 / 0
    ~~^~~
ZeroDivisionError: division by zero
"""


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (f"{PROGRESS}bridge: the disk is full.\n", ["bridge: the disk is full."]),
        (f"{TRACEBACK}bridge: no gold.\n{BAR}", ["bridge: no gold."]),
        (
            f"J(D): 0.74\n{PROGRESS}{TRACEBACK}",
            [
                '  File "b.py", line 7, in inner',
                "    1 / 0",
                "ZeroDivisionError: division by zero",
            ],
        ),
        (f"{PROGRESS}Killed\n", ["Killed"]),
        (f"started\n{BAR}{PROGRESS}\n====\n", ["started"]),
        (PROGRESS, [BEAT.format(29).rstrip()]),
        ("out\nprepare tiny-qwen: step 9/650, loss 1.2, 3 s left\n", ["out"]),
        ("out\n3 of 1200 answers, about 90 s left\n", ["out"]),
        ("", []),
    ],
)
def test_the_error_and_not_the_progress(tmp_path: Path, text: str, lines: list[str]) -> None:
    path = tmp_path / "job.log"
    path.write_text(text)
    assert lines_that_matter(path) == lines


def test_a_long_log_is_read_from_its_end_and_long_lines_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "job.log"
    path.write_bytes(b"\xff" * 100_000 + b"\n" + TRACEBACK.encode()[:-1] + b"x" * 10_000)
    *_, last = lines_that_matter(path)
    assert last.startswith("ZeroDivisionError") and len(last) == 300


def test_each_log_of_a_failed_job_is_named_once(tmp_path: Path) -> None:
    job, gone, whole = (tmp_path / name for name in ("job.log", "gone.log", "snakemake.log"))
    job.write_text("bridge: no gold.\n")
    line = f"    log: {job}, {gone} (check log file(s) for error details)\n"
    whole.write_text(f"rule train:\n    log: {tmp_path}/fine.log\n{line}{line}")
    said = [f"failed: {job}", "    bridge: no gold.", f"failed: {gone}"]
    assert failure_text([str(whole)]).splitlines() == said
