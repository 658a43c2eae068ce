"""The model card in a policy's folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM

from bridge.evaluation.runner import evaluate_run
from bridge.models.card import licence_of, write_card
from bridge.models.checkpoint import load_policy, weights_hash
from bridge.run.loop import train_run
from bridge.store.records import read_json
from bridge.store.settings import HubModel, TinyModel
from tests.fixtures.tiny_run import make_base, make_spec

HUB = HubModel(source="hub", repo="o/n", revision="0" * 40)
TINY = TinyModel(
    source="tiny", architecture="llama", families=("chains",), skill_steps=1, habit_steps=0
)
COUNTS = {"rung1": {"n": 40, "correct": 30}, "rung2": {"n": 10, "correct": 0}}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_base(tmp_path_factory.mktemp("own") / "base")
    (folder / "README.md").write_text("---\nlicense: mit\n---\nA base model.\n")
    return folder


def test_a_policy_is_described_when_trained_and_again_when_measured(
    base: Path, tmp_path: Path
) -> None:
    spec = make_spec(base, "sft", options={"steps": 1})
    assert train_run(spec, results=tmp_path, threads=1) == "done"
    folder = spec.folder(tmp_path)
    trained, before = ModelCard.load(folder.card), weights_hash(folder.policy)
    assert trained.data.license == "mit" and trained.data.library_name == "transformers"
    assert trained.data.eval_results is None
    for said in ("`base`, prompts: chat-template", "1 optimiser steps", "Not yet measured"):
        assert said in trained.text
    assert read_json(folder.done)["hashes"]["data"] in trained.text
    assert str(tmp_path) not in trained.text and str(base.parent) not in trained.text

    evaluate_run(spec, results=tmp_path, threads=1)
    measured, counts = ModelCard.load(folder.card), read_json(folder.scores)["benchmarks"]
    assert measured.data.license == "mit"
    results = {r.dataset_name: r for r in measured.data.eval_results or []}
    assert {n: (r.metric_value, r.metric_args) for n, r in results.items()} == {
        n: (c["correct"] / c["n"], {"n": c["n"]}) for n, c in counts.items()
    }
    assert "Not yet measured" not in measured.text and "| rung1 | " in measured.text
    assert weights_hash(folder.policy) == before, "scores are no part of the weights"
    assert load_policy(folder.policy).end_token_ids, "and the policy is what it was"


def test_the_card_shows_scores_with_n_and_interval(base: Path, tmp_path: Path) -> None:
    spec = make_spec(base, "sft")
    folder = spec.folder(tmp_path)
    folder.policy.mkdir(parents=True)
    write_card(folder, spec.as_dict(), {"n_steps": 3}, None, COUNTS)
    text = ModelCard.load(folder.card).text
    # Wilson, by hand: 0.75 of 40 and 0 of 10 with z = 1.96.
    assert "| rung1 | 40 | 75.0 | 59.8 to 85.8 |" in text
    assert "| rung2 | 10 | 0.0 | 0.0 to 27.8 |" in text
    assert "none stated by the base model" in text
    private = {"train": {"path": "/home/me/words.jsonl"}, "sets": ["/data/x", "human"]}
    changed = replace(spec, dataset_options=private).as_dict()
    write_card(folder, changed, {"n_steps": 3}, None, {})
    assert "path: words.jsonl" in ModelCard.load(folder.card).text
    assert "/home/me" not in ModelCard.load(folder.card).text
    assert "not one answer could be read" in ModelCard.load(folder.card).text


def test_what_the_card_says_to_run_runs(base: Path, tmp_path: Path) -> None:
    spec = make_spec(base, "sft", options={"steps": 1})
    train_run(spec, results=tmp_path, threads=1)
    folder = spec.folder(tmp_path)
    _, _, code = ModelCard.load(folder.card).text.partition("```python\n")
    names: dict[str, object] = {}
    exec(code.partition("```")[0].replace('"policy"', repr(str(folder.policy))), names)
    assert isinstance(
        names["model"],
        type(AutoModelForCausalLM.from_pretrained(folder.policy, trust_remote_code=False)),
    )
    tokenizer = names["tokenizer"]
    question = "mod 10 : a = 3 + 4 ; find a"
    theirs = tokenizer.apply_chat_template(  # type: ignore[attr-defined]
        [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
    )
    assert theirs == load_policy(folder.policy).prompt_ids(question)


def test_where_the_licence_comes_from(base: Path, tmp_path: Path) -> None:
    assert licence_of("hub", base) == licence_of("local", base) == "mit"
    assert licence_of("tiny", tmp_path) == "apache-2.0"
    assert licence_of("local", tmp_path) is None
    (tmp_path / "README.md").write_text("no settings at all\n")
    assert licence_of("local", tmp_path) is None


@pytest.mark.parametrize("model", [HUB, TINY])
def test_every_kind_of_base_model_is_described(
    model: HubModel | TinyModel, base: Path, tmp_path: Path
) -> None:
    spec = replace(make_spec(base, "sft"), model_config=model)
    folder = spec.folder(tmp_path)
    folder.policy.mkdir(parents=True)
    write_card(folder, spec.as_dict(), {}, None)
    card = ModelCard.load(folder.card)
    assert card.data.base_model == ("o/n" if model is HUB else None)
    assert ("o/n/tree/0000" if model is HUB else "taught nothing but chains") in card.text
