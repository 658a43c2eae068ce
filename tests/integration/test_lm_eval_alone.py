"""lm-eval without this harness's runner: each task by itself and a family as a group, on a model
that lies in the hub's cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

from bridge.evaluation.tasks import task_name, write_tasks
from bridge.models.tiny import build_model, build_tokenizer, save_base
from bridge.tasks.registry import load_family

FAMILIES = ("arithmetic", "equations")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL = f"pretrained=somebody/tiny,revision={COMMIT}"
ALONE = """
import json, sys
from lm_eval import simple_evaluate
from lm_eval.api.registry import get_model
from lm_eval.tasks import TaskManager

model, folder, *names = sys.argv[1:]
options = {"family_options": {"questions_scale": 0.02}}
manager = TaskManager(include_path=folder, include_defaults=False, metadata=options)
lm = get_model("hf").create_from_arg_string(model, {"device": "cpu", "batch_size": 16})
found = {}
for name in names:
    done = simple_evaluate(
        model=lm, tasks=[name], task_manager=manager, limit=2, apply_chat_template=True,
        gen_kwargs={"max_gen_toks": 4}, bootstrap_iters=0,
    )
    found[name] = [list(done["results"]), [len(s["resps"][0]) for s in done["samples"][name]]]
print(json.dumps(found))
"""
Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, root: Path) -> Run:
    """Run Python with a model in a cache like the hub's, and without a network; its output."""
    place = tmp_path / "hub" / "models--somebody--tiny"
    tokenizer = build_tokenizer([r"\boxed{2}"], context_tokens=256)
    model = build_model(
        "llama", tokenizer=tokenizer, hidden=16, layers=1, heads=2, context_tokens=256, seed=0
    )
    # Whatever is asked, it answers 2: an untrained model repeats the last token of its prompt.
    answer, last = tokenizer.convert_tokens_to_ids([r"\boxed{2}", "<|assistant|>"])
    with torch.no_grad():
        rows = model.get_input_embeddings().weight
        rows[answer] = 2 * rows[last]
    save_base(model, tokenizer, place / "snapshots" / COMMIT)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(COMMIT)
    known = os.environ | {
        "PYTHONPATH": str(root),
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
    }

    def start(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words], env=known, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return start


def test_each_task_runs_alone(run: Run, tmp_path: Path) -> None:
    write_tasks(tmp_path / "tasks")
    names = [
        task_name(benchmark, sampled=sampled)
        for family in FAMILIES
        for benchmark in load_family(family).benchmark_names()
        for sampled in (False, True)
    ]
    said = run("-c", ALONE, MODEL, str(tmp_path / "tasks"), *names)
    found = json.loads(said.strip().splitlines()[-1])
    for name in names:
        repeats = 8 if name.endswith("_sampled") else 1
        results, answers = found[name]
        assert (results, set(answers)) == ([name], {repeats})


def test_a_group_is_the_unweighted_mean(run: Run, tmp_path: Path) -> None:
    """By lm-eval's own command line, on questions that some benchmarks have more of than others."""
    write_tasks(tmp_path / "tasks")
    command = ["-m", "lm_eval", "--model", "hf", "--device", "cpu", "--model_args", MODEL]
    command += ["--apply_chat_template", "--include_path", str(tmp_path / "tasks")]
    command += ["--tasks", "bridge_chains", "--gen_kwargs", "max_gen_toks=16"]
    options = {"family_options": {"questions_scale": 0.1}}
    command += ["--metadata", json.dumps(options), "--output_path", str(tmp_path / "out")]
    run(*command, "--batch_size", "64")
    (path,) = (tmp_path / "out").rglob("results_*.json")
    record: dict[str, Any] = json.loads(path.read_text())
    assert record["group_subtasks"]["bridge_chains"] == [f"bridge_rung{i}" for i in range(1, 6)]
    sizes = {n["effective"] for n in record["n-samples"].values()}
    assert len(sizes) > 1
    scores = [record["results"][f"bridge_rung{i}"]["exact_match,all"] for i in range(1, 6)]
    assert len(set(scores)) > 1 and max(scores) < 1
    assert record["groups"]["bridge_chains"]["exact_match,all"] == pytest.approx(fmean(scores))
