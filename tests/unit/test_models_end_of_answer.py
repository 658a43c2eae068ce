"""Where an answer ends is decided once: rollouts, probes, demonstrations and evaluation agree."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bridge.engines import choosing
from bridge.engines.native import NativeEngine
from bridge.evaluation import engine_model
from bridge.evaluation.model import EvaluatedPolicy as EvaluatedPolicy
from bridge.evaluation.runner import evaluate_run
from bridge.machine.ranks import ALONE
from bridge.models.checkpoint import CheckpointError, load_policy, save_policy
from bridge.run.loop import train_run
from bridge.step.rollouts import Prompt
from bridge.step.rows import demonstration_row
from bridge.store.records import read_json, read_jsonl
from studies.coupling import measuring
from tests.fixtures.released import KINDS, Kind, make_released
from tests.fixtures.tiny_run import PROBLEM, make_method, make_spec, make_training

kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))


@kinds
def test_every_consumer_ends_answers_at_the_same_tokens(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_released(tmp_path / "model", kind)
    policy = load_policy(folder)
    ends = policy.end_token_ids
    assert policy.tokenizer.convert_ids_to_tokens(list(ends)) == list(kind.ends)

    class Recorder:
        def __init__(self, *_: object, end_token_ids: Any, **__: object) -> None:
            self.end_token_ids = tuple(end_token_ids)

    monkeypatch.setattr("bridge.engines.vllm.VllmEngine", Recorder)
    monkeypatch.setattr(engine_model, "VllmEngine", Recorder)
    found: dict[str, Any] = {
        "evaluation, hf": EvaluatedPolicy(folder, batch_size=1, max_response_tokens=4)._end_ids,
        "evaluation, vllm": engine_model.vllm_policy(folder, kv_cache_gib=1).engine.end_token_ids,
    }
    for name in ("native", "vllm"):
        training = make_training(engine=name)
        spec = replace(make_spec(folder, "sft"), training=training)
        weights = choosing.build_weights(spec, load_policy(folder), make_method("sft"), ALONE)
        found[name] = choosing.build_engine(training, weights, folder).end_token_ids
        sharded = make_training(engine=name, sharding={"stage": "zero2"})
        own: Any = choosing.build_engine(sharded, weights, folder)
        while not hasattr(own, "end_token_ids"):  # what deals to ranks, and what gathers for one
            own = own.engine
        found[f"{name}, sharded"] = own.end_token_ids
    assert {name: set(ids) for name, ids in found.items()} == {name: set(ends) for name in found}

    row = demonstration_row(policy, replace(PROBLEM, demonstration="model"))
    assert row.response_ids[-1] == ends[0], "what is taught to end with ends an answer"
    save_policy(policy, tmp_path / "saved")
    declared = read_json(tmp_path / "saved/generation_config.json")["eos_token_id"]
    assert set(declared) == set(ends), "other tools stop where we do"
    assert load_policy(tmp_path / "saved").end_token_ids == ends


@kinds
def test_each_end_token_ends_a_rollout_and_an_answer(kind: Kind, tmp_path: Path) -> None:
    for k, end in enumerate(kind.ends):
        folder = make_released(tmp_path / str(k), kind, answer=["right", end, "wrong", "more"])
        policy = load_policy(folder)
        engine = NativeEngine(
            policy.model, end_token_ids=policy.end_token_ids, pad_token_id=policy.pad_token_id
        )
        ((drawn,),) = engine.generate(
            [Prompt(tuple(policy.prompt_ids("user")), (0,))], max_new_tokens=4, temperature=1.0
        )
        assert policy.tokenizer.convert_ids_to_tokens(list(drawn.ids)) == ["right", end]
        assert not drawn.truncated

        lm = EvaluatedPolicy(folder, batch_size=1, max_response_tokens=4)
        prompts = lm.apply_chat_template([{"role": "user", "content": "user"}])
        ids, mask = lm.tok_batch_encode([prompts])
        out = lm._model_generate(ids, ids.shape[1] + 4, [lm._end_text], attention_mask=mask)
        assert out[0, ids.shape[1] :].tolist()[:2] == list(drawn.ids)
        ((answer,),) = lm._by_prompt.values()
        assert (answer.tokens, answer.truncated) == (2, False)


def test_a_study_ends_answers_there_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = load_policy(make_released(tmp_path, KINDS["gemma"]))

    def record(*_: object, end_token_ids: Any, **__: object) -> None:
        raise KeyError(end_token_ids)

    monkeypatch.setattr(measuring, "NativeEngine", record)
    with pytest.raises(KeyError) as made:
        measuring.sample(policy, [PROBLEM], make_training(), None, n=2, seed=0)  # type: ignore[arg-type]
    assert made.value.args[0] == policy.end_token_ids


def test_a_checkpoint_whose_answers_never_end_is_refused(tmp_path: Path) -> None:
    folder = make_released(tmp_path, KINDS["settings of config.json only"])
    for name in ("config.json", "tokenizer_config.json"):
        values = read_json(folder / name) | {"eos_token_id": None, "eos_token": None}
        (folder / name).write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"eos_token"):
        load_policy(folder)


def test_training_and_evaluation_see_one_world(tmp_path: Path) -> None:
    """The turn ends with another token than the tokenizer's: same weights, same answers."""
    words = ["two", "plus", "five", "six", "one", "three", "four"]
    answer = ["so", r"\boxed{7}", "<|im_end|>", r"\boxed{8}", "<|endoftext|>"]
    base = make_released(tmp_path / "base", KINDS["qwen-base"], words=words, answer=answer)
    questions = {
        "train": ["two plus five", "one plus six"],
        "validation": ["five plus two", "four plus three"],
        "test": ["six plus one", "three plus four"],
    }
    options: dict[str, Any] = {
        split: _written(tmp_path / f"{split}.jsonl", asked) for split, asked in questions.items()
    }
    options["benchmarks"] = {"own_test": options.pop("test")}
    spec = make_spec(base, "rl_zero", options={"steps": 1}, max_response_tokens=12)
    settings = {"prompts_per_step": 2, "probe_every": 1, "probe_size": 2}
    spec = replace(
        spec,
        family="own",
        dataset_options=options,
        training=make_training(**settings, max_response_tokens=12),
        evaluation=spec.evaluation.model_copy(update={"max_response_tokens": 12}),
    )
    assert train_run(spec, results=tmp_path, threads=1) == "done"
    assert evaluate_run(spec, results=tmp_path, threads=1) == "done"
    folder = spec.folder(tmp_path)
    line = read_jsonl(folder.dynamics)[-1]
    assert line["reward_mean"] == line["heldout_accuracy"] == 1
    assert (line["response_length_mean"], line["truncated_share"]) == (3, 0)
    assert [(r["verdict"], r["tokens"]) for r in read_jsonl(folder.answers)] == [("correct", 3)] * 2


def _written(path: Path, questions: list[str]) -> dict[str, str]:
    rows = [
        {"id": q, "question": q, "answer": "7", "demonstration": r"so \boxed{7}"} for q in questions
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(content)
    return {"path": str(path), "sha256": hashlib.sha256(content).hexdigest()}
