"""The runner, with a model that answers from a table instead of a checkpoint."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager
from safetensors.numpy import save_file

from bridge.evaluation import EvaluationError
from bridge.evaluation.model import Generated
from bridge.evaluation.runner import evaluate_run
from bridge.evaluation.scores import check_graded
from bridge.evaluation.tasks import write_tasks
from bridge.models import CheckpointError
from bridge.plan.grid import RunSpec
from bridge.store.records import RecordError, exclusive
from bridge.store.settings import LocalModel
from bridge.tasks.registry import load_family
from tests.fixtures.evaluation import finish, make_spec, read_rows

Reply = Callable[[str, str, int], tuple[str, bool]]
"""(question, gold answer, how often it was asked before) -> text, truncated."""


class Table(LM):
    """Answers by rule."""

    tokenizer = SimpleNamespace(chat_template="template")
    tokenizer_name = "table"
    device = "cpu"
    n_parameters = 10

    def __init__(self, spec: RunSpec, reply: Reply) -> None:
        super().__init__()
        self.reply, self.generated, self.calls = reply, [], 0
        self.prompt_opens_thinking = False
        family = load_family(spec.family)
        options = family.Options(**spec.dataset_options)
        self.gold = {
            p.question: p.answer
            for name in family.benchmark_names()
            for p in family.benchmark(name, options)
        }

    def apply_chat_template(self, chat_history: Any, add_generation_prompt: bool = True) -> str:
        (turn,) = chat_history
        assert turn["role"] == "user" and add_generation_prompt
        return str(turn["content"])

    def generate_until(self, requests: list[Any]) -> list[str]:
        self.calls += 1
        asked: Counter[str] = Counter()
        texts, self.generated = [], []
        for request in requests:
            question = request.args[0]
            text, truncated = self.reply(question, self.gold[question], asked[question])
            asked[question] += 1
            texts.append(text)
            self.generated.append(Generated(len(text.split()), truncated, 7))
        return texts

    def loglikelihood(self, requests: Any) -> Any:
        raise NotImplementedError

    def loglikelihood_rolling(self, requests: Any) -> Any:
        raise NotImplementedError


def right(question: str, gold: str, k: int) -> tuple[str, bool]:
    return f"\\boxed{{ {gold} }}", False


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "policy"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "chat_template.jinja"):
        (folder / name).write_text("{}")
    save_file({"w": np.ones(3, np.float32)}, folder / "model.safetensors")
    return folder


def run(
    spec: RunSpec, results: Path, checkpoint: Path, reply: Reply
) -> tuple[str, dict[str, Any], list[dict[str, Any]]]:
    folder = finish(spec, results, checkpoint)
    status = evaluate_run(spec, results=results, threads=1, load=lambda *_: Table(spec, reply))
    scores = json.loads((folder / "scores.json").read_text())
    return status, scores, read_rows(folder / "answers.jsonl")


@pytest.mark.parametrize("family", ["chains", "equations"])
def test_a_policy_that_is_always_right(family: str, tmp_path: Path, checkpoint: Path) -> None:
    spec = make_spec(family)
    status, scores, rows = run(spec, tmp_path, checkpoint, right)
    assert status == scores["status"] == "done" and scores["reason"] is None
    assert scores["spec_hash"] == spec.spec_hash
    assert tuple(scores["benchmarks"]) and set(scores["benchmarks"]) == set(
        load_family(family).benchmark_names()
    )
    sizes = [10, 5, 14, 1, 1]  # 2 % of 500, 272, 675, 30, 40
    for name, n in zip(load_family(family).benchmark_names(), sizes, strict=True):
        found = scores["benchmarks"][name]
        assert (found["n"], found["correct"]) == (n, n)
        assert found["verdicts"] == {"correct": n}
        assert not any(found[k] for k in ("n_samples", "sampled_questions", "sampled_correct"))
    assert len(rows) == sum(sizes) and all(r["sample"] == -1 for r in rows)
    assert scores["tokens_generated"] == sum(r["tokens"] for r in rows) == 3 * len(rows)
    assert scores["flops"] == 2 * 10 * (3 + 7) * len(rows)
    assert set(scores["seconds"]) == {"load", "greedy", "sampled", "grade", "total"}
    assert set(scores["versions"]) == {"lm_eval", "transformers", "torch", "python"}
    assert scores["decoding"]["sampled"] is None


def test_each_verdict_is_counted(tmp_path: Path, checkpoint: Path) -> None:
    def reply(question: str, gold: str, k: int) -> tuple[str, bool]:
        return {
            0: (f"\\boxed{{{gold}}}", False),
            1: (f"\\boxed{{{int(gold) + 1}}}", False),
            2: ("no answer", False),
            3: ("a = 3 + 4 =", True),
            4: (f"\\boxed{{{gold}}} and on and on", True),
        }[k]

    spec = make_spec(n_samples=5, sampled_questions=3)
    status, scores, rows = run(spec, tmp_path, checkpoint, reply)
    assert status == "done"
    rung1 = scores["benchmarks"]["rung1"]
    assert rung1["verdicts"] == {"correct": 10}
    assert (rung1["n_samples"], rung1["sampled_questions"], rung1["sampled_correct"]) == (5, 3, 6)
    assert rung1["sampled_verdicts"] == {
        "correct": 6,
        "wrong": 3,
        "unparsed": 3,
        "truncated": 3,
    }
    assert scores["benchmarks"]["rung4"]["sampled_questions"] == 1
    # All five samples of a question arrive, in their own order, after its greedy answer.
    first = [r for r in rows if r["question_id"] == "rung1/00000"]
    assert [r["sample"] for r in first] == [-1, 0, 1, 2, 3, 4]
    assert [r["verdict"] for r in first] == [
        "correct",
        "correct",
        "wrong",
        "unparsed",
        "truncated",
        "correct",
    ]
    assert [r["truncated"] for r in first] == [False, False, False, False, True, True]
    assert first[3]["extracted"] is None and first[3]["text"] == "no answer"
    order = list(dict.fromkeys(r["benchmark"] for r in rows))
    assert order == ["rung1", "rung2", "rung3", "rung4", "rung5"]
    assert len(rows) == 31 + 5 * (3 + 3 + 3 + 1 + 1)


def test_equal_evaluations_write_equal_bytes(tmp_path: Path, checkpoint: Path) -> None:
    spec = make_spec(n_samples=2, sampled_questions=2)
    texts = []
    for name in ("a", "b"):
        run(spec, tmp_path / name, checkpoint, right)
        texts.append(spec.folder(tmp_path / name).answers.read_bytes())
    assert texts[0] == texts[1] and len(texts[0]) > 0


def test_not_one_readable_answer_is_a_collapse(tmp_path: Path, checkpoint: Path) -> None:
    status, scores, rows = run(
        make_spec(), tmp_path, checkpoint, lambda question, gold, k: ("hm", k == 0)
    )
    assert status == scores["status"] == "collapsed"
    assert scores["benchmarks"] == {}
    assert "not one of 31 answers" in scores["reason"] and "31 truncated" in scores["reason"]
    assert len(rows) == 31


@pytest.mark.parametrize("status", ["diverged", "failed", "timeout"])
def test_a_run_that_did_not_finish_keeps_its_status(
    status: str, tmp_path: Path, checkpoint: Path
) -> None:
    spec = make_spec()
    run(spec, tmp_path, checkpoint, right)
    folder = finish(spec, tmp_path, checkpoint, status=status, reason="the loss is nan at step 3")

    def load(*_: Any) -> Any:
        raise AssertionError("nothing must be loaded")

    assert evaluate_run(spec, results=tmp_path, threads=1, load=load) == status
    scores = json.loads((folder / "scores.json").read_text())
    assert (scores["status"], scores["reason"]) == (status, "the loss is nan at step 3")
    assert scores["benchmarks"] == {} and scores["spec_hash"] == spec.spec_hash
    assert not (folder / "answers.jsonl").exists(), "answers of an earlier policy must not stay"


def test_bad_records(tmp_path: Path, checkpoint: Path) -> None:
    spec = make_spec()

    def refusal() -> str:
        with pytest.raises((CheckpointError, EvaluationError, RecordError)) as caught:
            evaluate_run(spec, results=tmp_path, threads=1, load=lambda *_: Table(spec, right))
        assert not spec.folder(tmp_path).scores.exists()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "done.json is missing" in refusal()
    finish(spec, tmp_path, checkpoint, status="finished")
    assert "done.json: status" in refusal()
    finish(spec, tmp_path, checkpoint, train_hash="0")
    assert "another configuration" in refusal()
    finish(spec, tmp_path, checkpoint / "absent")
    assert "no checkpoint" in refusal()
    finish(spec, tmp_path, checkpoint)
    with exclusive(spec.folder(tmp_path)):
        assert "another process" in refusal()


def test_a_missing_checkpoint_keeps_an_earlier_evaluation(tmp_path: Path, checkpoint: Path) -> None:
    spec = make_spec()
    run(spec, tmp_path, checkpoint, right)
    before = spec.folder(tmp_path).scores.read_bytes()
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        evaluate_run(spec, results=tmp_path, threads=1)
    assert spec.folder(tmp_path).scores.read_bytes() == before


def test_the_base_of_an_untrained_run_is_where_the_suite_says(
    tmp_path: Path, checkpoint: Path
) -> None:
    """Also where the record names the place that the model was moved from."""
    path = str(checkpoint.rename(tmp_path / "moved"))
    spec = replace(
        make_spec(),
        model_config=LocalModel(source="local", path=path),
        checkpoint_hash="a" * 16,
    )
    loaded: list[Path] = []

    def load(folder: Path, _: object) -> Table:
        loaded.append(folder)
        return Table(spec, right)

    finish(spec, tmp_path, checkpoint)
    assert evaluate_run(spec, results=tmp_path, threads=1, load=load) == "done"
    assert loaded == [Path(path)]


def test_lm_eval_scores_all_samples_by_our_grader(tmp_path: Path) -> None:
    """The task file as it is, the way lm-eval's command line runs it."""

    def reply(question: str, gold: str, k: int) -> tuple[str, bool]:
        return (f"\\boxed{{{gold}.0}}" if k in (5, 7) else "\\boxed{}"), False

    write_tasks(tmp_path, {"chains": None})
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    found = evaluate(
        lm=Table(make_spec(scale=1.0), reply),
        task_dict=manager.load(["bridge_rung4_sampled"]),
        limit=3,
        bootstrap_iters=0,
        apply_chat_template=True,
    )
    results = found["results"]["bridge_rung4_sampled"]
    assert (results["avg_at_n,all"], results["pass_at_n,all"]) == (0.25, 1.0)


def test_too_many_ungraded_answers() -> None:
    check_graded(Counter(timeout=5, correct=95))
    with pytest.raises(EvaluationError, match="6% of the answers"):
        check_graded(Counter(timeout=6, correct=94))
