"""``bridge compare --samples`` on files of lm-eval's own command line, of another's task."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_rel

from bridge.jobs import cli
from bridge.store.records import read_json, read_jsonl
from tests.fixtures.tiny_run import make_base

pytestmark = pytest.mark.slow

TASK = """\
task: sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: gold
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""


def logged(model: Path, tasks: Path, out: Path) -> tuple[Path, dict[str, float]]:
    """Let lm-eval measure a checkpoint; its file of samples, and the scores that it says."""
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--device", "cpu"]
    command += ["--model_args", f"pretrained={model}", "--include_path", str(tasks)]
    command += ["--tasks", "sums", "--log_samples", "--output_path", str(out)]
    environment = os.environ | {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (samples,), (scores,) = out.glob("*/samples_sums_*.jsonl"), out.glob("*/results_*.json")
    return samples, read_json(scores)["results"]["sums"]


def test_files_of_lm_eval_are_compared_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng, rows = random.Random(0), []
    for a in range(24):
        choices = [str(n) for n in rng.sample(range(10), 4)]
        question = f"mod 10 : a = {a % 10} + {a // 10} ; find a"
        rows.append({"question": question, "choices": choices, "gold": rng.randrange(4)})
    data = tmp_path / "sums.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "sums.yaml").write_text(TASK.format(data=data))
    files, said = [], []
    for name, steps in (("a", 10), ("b", 120)):
        base = make_base(tmp_path / name, steps=steps)
        found, scores = logged(base, tmp_path / "tasks", tmp_path / f"out-{name}")
        files.append(found)
        said.append(scores)
    capsys.readouterr()  # of what training the models said
    cli.main(["compare", "--samples", str(files[0]), str(files[1]), "--json"])
    compared = {row["metric"]: row for row in json.loads(capsys.readouterr().out)}
    for metric in ("acc", "acc_norm"):
        row = compared[metric]
        assert [row["left"], row["right"]] == pytest.approx([s[f"{metric},none"] for s in said])
        left, right = (
            np.array([r[metric] for r in sorted(read_jsonl(f), key=lambda r: r["doc_id"])])
            for f in files
        )
        assert row["difference"] == pytest.approx((right - left).mean())
        limits = ttest_rel(right, left).confidence_interval(0.95)
        assert [row["low"], row["high"]] == pytest.approx([limits.low, limits.high], rel=1e-6)
