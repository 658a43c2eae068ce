"""Evaluation of real (tiny) checkpoints: the hf model under watch, the runner, the command line."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from bridge.evaluation import EvaluationError
from bridge.evaluation.answers import ask, load_tasks
from bridge.evaluation.model import EvaluatedPolicy
from bridge.evaluation.runner import evaluate_run
from bridge.evaluation.tasks import write_tasks
from bridge.models.checkpoint import load_policy, load_tokenizer
from bridge.models.tiny import build_model, build_tokenizer, pretrain, save_base
from bridge.tasks.registry import load_family
from tests.fixtures.evaluation import finish, make_spec, read_rows

CONTEXT = 128


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that has learnt the form of an answer, long and short, and little else."""
    chains = load_family("chains")
    tokenizer = build_tokenizer(chains.vocabulary(), context_tokens=CONTEXT)
    model = build_model(
        request.param,
        tokenizer=tokenizer,
        hidden=32,
        layers=2,
        heads=2,
        context_tokens=CONTEXT,
        seed=1,
    )
    rng = random.Random(0)
    skills, habits = (chains.pretraining(rng, habit=h) for h in (False, True))
    pretrain(
        model,
        tokenizer,
        [skills],
        [habits],
        steps=120,
        habit_steps=1,
        batch_size=16,
        learning_rate=1e-2,
        seed=0,
    )
    folder = tmp_path_factory.mktemp(request.param) / "policy"
    save_base(model, tokenizer, folder)
    return folder


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def wild(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large random weights: each prompt gets a text of its own, and no two tokens nearly tie."""
    tokenizer = build_tokenizer(load_family("chains").vocabulary(), context_tokens=CONTEXT)
    model = build_model(
        request.param,
        tokenizer=tokenizer,
        hidden=32,
        layers=2,
        heads=2,
        context_tokens=CONTEXT,
        seed=3,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(15.0)
    folder = tmp_path_factory.mktemp(request.param) / "policy"
    save_base(model, tokenizer, folder)
    return folder


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: Any) -> None:
        raise AssertionError(f"the evaluation opened a connection to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def copy(checkpoint: Path, to: Path) -> Path:
    return Path(shutil.copytree(checkpoint, to / "copy"))


def greedy(checkpoint: Path, *, batch_size: int, tokens: int = 48) -> list[tuple[str, int, bool]]:
    spec = make_spec(max_response_tokens=tokens)
    lm = EvaluatedPolicy(checkpoint, batch_size=batch_size, max_response_tokens=tokens)
    tasks = load_tasks("chains", spec.dataset_options, spec.evaluation, sampled=False)
    return [
        (a.text, a.generated.tokens, a.generated.truncated)
        for a in ask(lm, tasks, limit=None, seed=0)
    ]


def plainly(checkpoint: Path, *, tokens: int) -> list[tuple[str, int, bool]]:
    """Greedy answers of transformers alone, one prompt at a time, without padding."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, trust_remote_code=False)
    tokenizer = load_tokenizer(checkpoint)
    family, spec = load_family("chains"), make_spec()
    out = []
    for name in family.benchmark_names():
        for problem in family.benchmark(name, family.Options(**spec.dataset_options)):
            ids = tokenizer.apply_chat_template(
                [{"role": "user", "content": problem.question}],
                add_generation_prompt=True,
                return_tensors="pt",
                return_dict=True,
            )["input_ids"]
            new = model.generate(ids, max_new_tokens=tokens, do_sample=False)[0, ids.shape[1] :]
            text = tokenizer.decode(new, skip_special_tokens=True)
            out.append((text, len(new), new[-1].item() != tokenizer.eos_token_id))
    return out


def test_prompts_are_those_of_the_training(checkpoint: Path) -> None:
    trained = load_policy(checkpoint)
    lm = EvaluatedPolicy(checkpoint, batch_size=4, max_response_tokens=16)
    questions = ["mod 10 : a = 3 + 4 ; find a", "mod 10 : a is 3 plus 4 , b is a times 2 , find b"]
    prompts = [lm.apply_chat_template([{"role": "user", "content": q}]) for q in questions]
    ids, mask = lm.tok_batch_encode(prompts)
    for question, row, shown in zip(questions, ids, mask, strict=True):
        assert row[shown.bool()].tolist() == trained.prompt_ids(question)
        assert not shown[: len(row) - int(shown.sum())].any(), "padding belongs on the left"


def test_greedy_answers_do_not_depend_on_the_batch(wild: Path) -> None:
    expected = plainly(wild, tokens=24)
    # The comparison means something: answers differ, some end, some are cut.
    assert len({text for text, _, _ in expected}) > 10
    assert {cut for _, _, cut in expected} == {True, False}
    for batch_size in (1, 5, 64):
        assert greedy(wild, batch_size=batch_size, tokens=24) == expected


def test_the_checkpoint_s_generation_settings_change_nothing(
    checkpoint: Path, tmp_path: Path
) -> None:
    folder = copy(checkpoint, tmp_path)
    path = folder / "generation_config.json"
    settings = json.loads(path.read_text())
    assert settings["max_new_tokens"] == CONTEXT // 2
    settings |= {"max_new_tokens": 2, "repetition_penalty": 9.0, "do_sample": True, "top_k": 1}
    path.write_text(json.dumps(settings))
    assert greedy(folder, batch_size=16) == greedy(checkpoint, batch_size=16)


def test_any_end_token_of_the_generation_settings_ends_an_answer(
    wild: Path, tmp_path: Path
) -> None:
    whole = greedy(wild, batch_size=16, tokens=24)
    folder = copy(wild, tmp_path)
    ((word, count),) = Counter(w for text, _, _ in whole for w in set(text.split())).most_common(1)
    assert 5 < count < len(whole)
    second = load_tokenizer(folder).convert_tokens_to_ids(word)
    path = folder / "generation_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"eos_token_id": [settings["eos_token_id"], second]}))
    stopped = greedy(folder, batch_size=16, tokens=24)
    for (text, tokens, cut), found in zip(whole, stopped, strict=True):
        if word in text.split():
            before = text.split()[: text.split().index(word) + 1]
            assert found[0].split() == before and not found[2]
        else:
            assert found == (text, tokens, cut)


def test_evaluation_of_a_checkpoint(checkpoint: Path, tmp_path: Path, no_network: None) -> None:
    spec = make_spec(n_samples=4, sampled_questions=3, max_response_tokens=48, batch_size=32)
    texts = []
    for name in ("a", "b"):
        finish(spec, tmp_path / name, checkpoint)
        assert evaluate_run(spec, results=tmp_path / name, threads=1) == "done"
        texts.append(spec.folder(tmp_path / name).answers.read_bytes())
    assert texts[0] == texts[1], "a repeated evaluation must give the same bytes"

    folder = spec.folder(tmp_path / "a")
    rows = read_rows(folder.answers)
    assert [(r["text"], r["tokens"], r["truncated"]) for r in rows if r["sample"] < 0] == greedy(
        checkpoint, batch_size=32
    )
    drawn = [r for r in rows if r["sample"] >= 0]
    assert len(drawn) == 4 * (3 + 3 + 3 + 1 + 1)
    by_question: dict[str, list[str]] = {}
    for row in drawn:
        by_question.setdefault(row["question_id"], []).append(row["text"])
    assert all(len(texts) == 4 for texts in by_question.values())
    assert sum(len(set(texts)) > 1 for texts in by_question.values()) > len(by_question) / 2
    tokenizer = load_tokenizer(checkpoint)
    for row in rows:
        words = len(tokenizer(row["text"])["input_ids"])
        # Sampling also draws special tokens, which the text leaves out.
        assert row["tokens"] >= words + (not row["truncated"])
        if row["truncated"]:
            assert row["tokens"] == 48
        elif row["sample"] < 0:
            assert row["tokens"] == words + 1

    scores = json.loads(folder.scores.read_text())
    model = AutoModelForCausalLM.from_pretrained(checkpoint, trust_remote_code=False)
    assert scores["n_parameters"] == model.num_parameters()
    assert scores["tokens_generated"] == sum(r["tokens"] for r in rows)
    assert scores["decoding"]["sampled"]["top_k"] == 0
    assert sum(b["n"] for b in scores["benchmarks"].values()) == 31
    assert set(scores["tasks"]) == {
        f"bridge_rung{i}{kind}" for i in range(1, 6) for kind in ("", "_sampled")
    }


def test_another_seed_draws_other_samples(checkpoint: Path, tmp_path: Path) -> None:
    spec = make_spec(n_samples=4, sampled_questions=3)
    lm = EvaluatedPolicy(checkpoint, batch_size=32, max_response_tokens=48)
    tasks = load_tasks("chains", spec.dataset_options, spec.evaluation, sampled=True)
    first, again, other = (
        [a.text for a in ask(lm, tasks, limit=3, seed=seed)] for seed in (1, 1, 2)
    )
    assert first == again != other


def test_damaged_weights_are_no_score(checkpoint: Path, tmp_path: Path) -> None:
    folder = copy(checkpoint, tmp_path)
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    name = "model.layers.0.mlp.down_proj.weight"

    def refusal() -> str:
        with pytest.raises(EvaluationError) as caught:
            EvaluatedPolicy(folder, batch_size=4, max_response_tokens=16)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    save_file({k: v for k, v in tensors.items() if k != name}, weights, {"format": "pt"})
    assert "lacks 1 of the model's tensors" in refusal()
    spoilt = torch.full_like(tensors[name], torch.nan)
    save_file(tensors | {name: spoilt}, weights, {"format": "pt"})
    assert "not finite" in refusal()
    save_file(tensors | {name: tensors[name][:3]}, weights, {"format": "pt"})
    assert "cannot be loaded" in refusal()
    (folder / "tokenizer.json").write_text("{")
    assert "cannot be loaded" in refusal()


def test_a_context_that_is_too_short(checkpoint: Path) -> None:
    with pytest.raises(EvaluationError, match="no room for a prompt"):
        EvaluatedPolicy(checkpoint, batch_size=4, max_response_tokens=CONTEXT)
    with pytest.raises(EvaluationError, match="do not fit into the context"):
        greedy(checkpoint, batch_size=4, tokens=CONTEXT - 8)


@pytest.mark.slow
def test_lm_eval_s_own_command_line(checkpoint: Path, tmp_path: Path, root: Path) -> None:
    """Plain lm-eval, plain ``hf``: the same texts and the same score."""
    options = {"family_options": make_spec().dataset_options}
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--device", "cpu"]
    command += ["--model_args", f"pretrained={checkpoint}", "--apply_chat_template"]
    write_tasks(tmp_path / "tasks", {"chains": None})
    command += [
        "--include_path",
        str(tmp_path / "tasks"),
        "--tasks",
        "bridge_rung2,bridge_rung2_sampled",
    ]
    command += ["--metadata", json.dumps(options), "--gen_kwargs", "max_gen_toks=64"]
    command += ["--batch_size", "8", "--log_samples", "--output_path", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(root), "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for line in ("exact_match", "avg_at_n", "pass_at_n"):
        assert line in done.stdout

    spec = make_spec(max_response_tokens=64)
    finish(spec, tmp_path, checkpoint)
    evaluate_run(spec, results=tmp_path, threads=1)
    ours = [r for r in read_rows(spec.folder(tmp_path).answers) if r["benchmark"] == "rung2"]
    (logged,) = tmp_path.glob("*/samples_bridge_rung2_2*.jsonl")
    theirs = sorted(read_rows(logged), key=lambda r: r["doc_id"])
    assert [r["resps"][0][0] for r in theirs] == [r["text"] for r in ours]
    assert [r["exact_match"] for r in theirs] == [float(r["verdict"] == "correct") for r in ours]
    (logged,) = tmp_path.glob("*/samples_bridge_rung2_sampled_*.jsonl")
    samples = read_rows(logged)
    assert all(len(r["resps"][0]) == len(r["filtered_resps"][0]) == 8 for r in samples)
    assert any(len(set(r["resps"][0])) > 1 for r in samples)
