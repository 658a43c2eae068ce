"""Probes that draw answers: J by two yardsticks, L per sequence, the angle of both gradients."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bridge.engines.native import NativeEngine
from bridge.grading.lenient import last_number_is
from bridge.grading.signal import missing_signal
from bridge.grading.verdicts import Graded, GradeItem, Verdict
from bridge.machine.telemetry import Stopwatch
from bridge.models.checkpoint import Policy
from bridge.plan.grid import RunSpec
from bridge.run.experience import Collector
from bridge.run.loop import train_run
from bridge.run.probes import Probes
from bridge.step.rollouts import Prompt
from bridge.step.weights import WholeWeights
from bridge.store.seeds import derive_seed
from bridge.store.settings import TrainingConfig
from bridge.tasks.base import Dataset
from bridge.tasks.registry import load_family
from tests.fixtures.tiny_run import (
    DATASET,
    MethodTrainer,
    TextGrader,
    load_double,
    make_method,
    make_spec,
    make_training,
    read_lines,
)

ADDED = {
    *(f"{split}_{key}" for split in ("heldout", "train") for key in ("reward", "lenient")),
    *(f"{split}_{key}" for split in ("heldout", "train") for key in ("format", "length")),
    *("demo_loss_train_nats", "demo_loss_heldout_nats"),
    *("probe_rl_norm", "probe_sft_norm", "probe_cosine"),
}


def make_probes(policy: Policy, **settings: Any) -> Probes:
    """Probes around a policy that is not trained; rewards of its rollouts would be flipped."""
    training = make_training(probe_samples=5, reward_flip=0.49, **settings)
    trainable = WholeWeights(policy)
    engine = NativeEngine(
        policy.model, end_token_ids=policy.end_token_ids, pad_token_id=policy.pad_token_id
    )
    grader: Any = TextGrader()
    collector = Collector(policy, engine, grader, training, seed=3, stopwatch=Stopwatch())
    trainer = MethodTrainer(trainable, make_method("mixing", training), training)
    return Probes(trainable, trainer, collector, dataset(), trainer.method)


def dataset() -> Dataset:
    family = load_family("chains")
    return family.dataset(family.Options.model_validate(DATASET))


@pytest.fixture(scope="module")
def probes(base: Path) -> Probes:
    # Settings that bend the gradient of the run, but must not bend that of the probe.
    return make_probes(load_double(base), kl_coef=0.3, loss_agg_mode="token-mean")


def test_measuring_changes_no_weight_and_no_other_number(
    base: Path, tmp_path: Path, no_workers: None
) -> None:
    def run(name: str, **training: Any) -> tuple[RunSpec, list[dict[str, Any]], dict[str, Any]]:
        options = {"steps": 2, "second_steps": 2, "kl_in_reward": 0.1}
        spec = make_spec(
            base,
            "phases",
            options=options,
            norm_adv_by_std_in_grpo=False,
            loss_agg_mode="seq-mean-token-sum",
            probe_every=1,
            **training,
        )
        train_run(spec, results=tmp_path / name, threads=1)
        folder = spec.folder(tmp_path / name)
        weights = load_file(folder.policy / "model.safetensors")
        return spec, read_lines(folder.dynamics), weights

    _, plain, before = run("plain")
    spec, probed, after = run("probed", probe_samples=3)
    assert all(torch.equal(before[name], after[name]) for name in before | after)
    for old, new in zip(plain, probed, strict=True):
        assert {k: v for k, v in new.items() if k not in ADDED} == old
        assert set(new) - set(old) == ADDED
    assert spec.training.probe_samples == 3


def test_rewards_are_those_of_separately_drawn_answers(probes: Probes, base: Path) -> None:
    policy = load_double(base)
    engine = NativeEngine(
        policy.model, end_token_ids=policy.end_token_ids, pad_token_id=policy.pad_token_id
    )
    measured = probes.measure(7)
    for name, problems in (("heldout", probes.heldout), ("train", probes.train)):
        right, lenient, boxed, tokens = 0.0, 0.0, 0.0, 0
        for problem in problems:
            seeds = [derive_seed("probe", name, 3, 7, problem.id)]
            seeds += [derive_seed("probe", name, 3, 7, problem.id, k) for k in range(1, 5)]
            prompt = Prompt(tuple(policy.prompt_ids(problem.question)), tuple(seeds))
            (drawn,) = engine.generate([prompt], max_new_tokens=6, temperature=1.0)
            for completion in drawn:
                text = policy.text(list(completion.ids))
                (graded,) = TextGrader().grade([GradeItem(text=text, gold=problem.answer)])
                right += graded.verdict == "correct"
                lenient += last_number_is(text, problem.answer)
                boxed += bool(re.search(r"\\boxed ?\{[^{}]*\w[^{}]*\}", text))
                tokens += len(completion.ids)
        n = 5 * len(problems)
        assert measured[f"{name}_reward"] == pytest.approx(right / n)
        assert measured[f"{name}_lenient"] == pytest.approx(lenient / n)
        assert measured[f"{name}_format"] == pytest.approx(boxed / n)
        assert measured[f"{name}_length"] == pytest.approx(tokens / n)
        assert 0 < right < n


def test_the_loss_per_sequence_is_the_sum_over_its_tokens(probes: Probes) -> None:
    rows = probes.demonstrations["demo_loss_heldout"]
    total = sum(-float(log_prob(probes, row).detach()) for row in rows)
    assert probes.measure(0)["demo_loss_heldout_nats"] == pytest.approx(total / len(rows))


def test_gradients_are_those_of_plain_j_and_l(probes: Probes) -> None:
    """Against autograd on J = mean (r - mean r) log p and L = -mean log p, row by row."""
    parameters = probes.policy.parameters["base"]
    groups = probes.collector.probe_groups(probes.heldout, n=5, name="heldout", step=2)
    surrogate = torch.zeros((), dtype=torch.float64)
    for group in groups:
        mean = sum(group.rewards) / 5
        for row in group.rows:
            assert row.reward is not None
            surrogate = surrogate - (row.reward - mean) * log_prob(probes, row)
    rl = flat_gradient(surrogate / (5 * len(groups)), parameters)
    rows = probes.demonstrations["demo_loss_heldout"]
    loss = torch.stack([-log_prob(probes, row) for row in rows]).mean()
    sft = flat_gradient(loss, parameters)
    measured = probes.measure(2)
    assert measured["probe_rl_norm"] == pytest.approx(float(rl.norm()), rel=1e-9)
    assert measured["probe_sft_norm"] == pytest.approx(float(sft.norm()), rel=1e-9)
    expected = float(rl @ sft / (rl.norm() * sft.norm()))
    assert measured["probe_cosine"] == pytest.approx(expected, abs=1e-9)
    assert abs(expected) < 0.999  # else a mixed-up pair would pass


def log_prob(probes: Probes, row: Any) -> torch.Tensor:
    ids = torch.tensor([[*row.prompt_ids, *row.response_ids]])
    logits = probes.policy.model(input_ids=ids).logits[0, len(row.prompt_ids) - 1 : -1]
    chosen = torch.log_softmax(logits, -1).gather(1, torch.tensor(row.response_ids)[:, None])
    return chosen.sum()


def flat_gradient(loss: torch.Tensor, parameters: list[torch.nn.Parameter]) -> torch.Tensor:
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return torch.cat(
        [
            (torch.zeros_like(p) if g is None else g).reshape(-1)
            for g, p in zip(found, parameters, strict=True)
        ]
    )


def test_one_answer_per_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="one answer has no baseline"):
        TrainingConfig(**make_training().model_dump() | {"probe_samples": 1})


@pytest.mark.parametrize(
    ("text", "gold", "right"),
    [
        (r"so \boxed{ 7 }", "7", True),
        ("so 7", "7", True),
        (r"\boxed{ 7 } or 8", "7", False),
        ("17", "7", False),
        ("the answer is -7", "7", False),
        ("the answer is -7", "-7", True),
        ("no number", "7", False),
        ("x", "x", False),
        ("٧", "7", False),
    ],
)
def test_the_lenient_yardstick_reads_the_last_number(text: str, gold: str, right: bool) -> None:
    assert last_number_is(text, gold) is right


@pytest.mark.parametrize(
    ("method", "options", "steps"),
    [
        ("rl_zero", {"steps": 2}, [1]),
        ("cold_start", {"sft_steps": 2, "rl_steps": 2}, [3]),
        ("mixing", {"steps": 2}, []),
        ("sft", {"steps": 2}, []),
    ],
)
def test_a_base_that_writes_no_box_is_named_before_rl_begins(
    base: Path,
    tmp_path: Path,
    no_workers: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    method: str,
    options: dict[str, Any],
    steps: list[int],
) -> None:
    """Also where RL follows SFT that did not help; once, and not where a step has both losses."""
    monkeypatch.setattr(
        TextGrader, "grade", lambda self, items: [Graded("unparsed", None)] * len(items)
    )
    spec = make_spec(base, method, options=options, probe_every=1)
    train_run(spec, results=tmp_path, threads=1)
    said = [line for line in capsys.readouterr().err.splitlines() if "had a box" in line]
    n = 2 * spec.training.probe_size
    assert [line.partition(":")[0] for line in said] == [f"{method}, step {i}" for i in steps]
    assert all(f"0 of {n} answers had a box: RL has no signal" in line for line in said)


def test_a_single_readable_answer_is_a_signal() -> None:
    verdicts: Counter[Verdict] = Counter({"unparsed": 40, "truncated": 7, "wrong": 1})
    assert missing_signal(verdicts, None, 9) is None
    del verdicts["wrong"]
    said = str(missing_signal(verdicts, None, 9))
    assert said.startswith("0 of 47 answers had a box (7 were cut at 9 tokens)")
    assert "could be read by mine:score" in str(missing_signal(verdicts, "mine:score", 9))


def test_a_part_of_the_reward_lies_between_wrong_and_correct() -> None:
    training = make_training(reward_correct=2.0, reward_wrong=-1.0)
    assert [training.reward(worth) for worth in (0.0, 0.5, 1.0)] == [-1.0, 0.5, 2.0]
    graded = [Graded("correct", "1"), Graded("wrong", "1"), Graded("wrong", None, 0.3)]
    assert [g.worth for g in graded] == [1.0, 0.0, 0.3]
