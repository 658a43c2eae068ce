"""lm-eval's own command line on the real benchmarks, with any lm-eval model (here a tiny one)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bridge.evaluation.tasks import write_tasks
from bridge.models.tiny import build_model, build_tokenizer, save_base
from bridge.tasks.real.prompts import BOXED
from tests.fixtures.evaluation import read_rows
from tests.fixtures.real_data import data_root

GREEDY = ("math500", "minerva_math", "olympiadbench", "aime24", "amc23", "gsm8k", "gpqa_diamond")
SAMPLED = ("aime24_sampled", "kk_test_sampled")


@pytest.mark.slow
@pytest.mark.data
def test_lm_eval_alone_runs_the_real_benchmarks(tmp_path: Path, root: Path) -> None:
    environment = os.environ | {
        "PYTHONPATH": str(root),
        "BRIDGE_DATA_ROOT": data_root(),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
    }
    words = [r"\boxed{2}", r"\boxed{B}", "so", "then"]
    tokenizer = build_tokenizer(words, context_tokens=1024)
    model = build_model(
        "llama", tokenizer=tokenizer, hidden=16, layers=1, heads=2, context_tokens=1024, seed=0
    )
    save_base(model, tokenizer, tmp_path / "policy")
    names = [f"bridge_{name}" for name in (*GREEDY, *SAMPLED)]
    asked = ["bridge_mathematics", *names[5:]]
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--device", "cpu"]
    command += ["--model_args", f"pretrained={tmp_path / 'policy'}", "--apply_chat_template"]
    write_tasks(tmp_path / "tasks")
    command += [
        "--include_path",
        str(tmp_path / "tasks"),
        "--tasks",
        ",".join(asked),
        "--limit",
        "2",
    ]
    command += ["--gen_kwargs", "max_gen_toks=4", "--batch_size", "32"]
    command += ["--log_samples", "--output_path", str(tmp_path / "out")]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for name in names:
        (logged,) = (tmp_path / "out").glob(f"*/samples_{name}_2*.jsonl")
        records = read_rows(logged)
        assert [r["doc_id"] for r in sorted(records, key=lambda r: r["doc_id"])] == [0, 1]
        sampled = name.endswith("_sampled")
        for record in records:
            assert r"\boxed{" in record["doc"]["question"]
            assert len(record["resps"][0]) == (32 if sampled else 1)
            score = record["avg_at_n" if sampled else "exact_match"]
            right = [
                rf"\boxed{{{record['doc']['answer']}}}" in t.split()[-1:]
                for t in record["resps"][0]
            ]
            assert score >= sum(right) / len(right)
        if name in ("bridge_math500", "bridge_aime24"):
            assert records[0]["doc"]["question"].endswith(BOXED)
