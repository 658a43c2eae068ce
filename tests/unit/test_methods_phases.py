"""``phases``: its reductions, its theory arm against a loop over tokens, what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bridge.models.checkpoint import Policy
from bridge.run.loop import train_run
from bridge.run.state import Run
from bridge.step.batches import StepBatch
from bridge.step.rows import Group
from bridge.step.scoring import sequence_logprobs
from bridge.step.trainer import Trainer
from bridge.store.schema import ConfigError
from tests.fixtures.tiny_run import (
    PROBLEM,
    load_double,
    make_method,
    make_rows,
    make_spec,
    make_trainer,
    make_training,
    read_lines,
)

pytestmark = pytest.mark.usefixtures("no_workers")

THEORY: dict[str, Any] = {
    "norm_adv_by_std_in_grpo": False,
    "loss_agg_mode": "seq-mean-token-sum",
}


def end(base: Path, results: Path, method: str, **settings: Any) -> dict[str, torch.Tensor]:
    spec = make_spec(base, method, probe_every=100, **settings)
    assert train_run(spec, results=results, threads=1) == "done"
    return load_file(spec.folder(results).policy / "model.safetensors")


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(left[name], right[name]) for name in left | right)


def test_sft_then_rl_is_cold_start(base: Path, tmp_path: Path) -> None:
    settings = {"kl_coef": 0.3}
    ours = end(base, tmp_path / "a", "phases", options={"steps": 2, "second_steps": 3}, **settings)
    options = {"sft_steps": 2, "rl_steps": 3}
    theirs = end(base, tmp_path / "b", "cold_start", options=options, **settings)
    assert same(ours, theirs)


def test_one_phase_is_the_plain_method(base: Path, tmp_path: Path) -> None:
    for kind, method in (("sft", "sft"), ("rl", "rl_zero")):
        options = {"first": kind, "steps": 3, "second_steps": 0}
        ours = end(base, tmp_path / f"a{kind}", "phases", options=options)
        theirs = end(base, tmp_path / f"b{kind}", method, options={"steps": 3})
        assert same(ours, theirs), kind


def test_the_first_phase_does_not_depend_on_the_second(base: Path, tmp_path: Path) -> None:
    """So the policy at the change of phase is the final policy of the one-phase arm."""
    whole = make_spec(
        base, "phases", probe_every=2, options={"first": "rl", "second": "sft", "steps": 2}
    )
    alone = make_spec(
        base, "phases", probe_every=2, options={"first": "rl", "steps": 2, "second_steps": 0}
    )
    lines = []
    for spec, name in ((whole, "a"), (alone, "b")):
        train_run(spec, results=tmp_path / name, threads=1)
        lines.append(read_lines(spec.folder(tmp_path / name).dynamics)[:3])
    for key in ("demo_loss_heldout", "heldout_accuracy", "reward_mean"):
        assert [line.get(key) for line in lines[0]] == [line.get(key) for line in lines[1]]


# -- the theory arm -----------------------------------------------------------------------------


def slow_logprob(policy: Policy, prompt: tuple[int, ...], response: tuple[int, ...]) -> float:
    """One token at a time, no padding, no batch."""
    total, ids = 0.0, list(prompt)
    for token in response:
        logits = policy.model(input_ids=torch.tensor([ids])).logits[0, -1].double()
        total += float(logits[token] - torch.logsumexp(logits, 0))
        ids.append(token)
    return total


@torch.no_grad()
def test_scores_of_whole_answers_equal_a_loop_over_tokens(base: Path) -> None:
    policy = load_double(base)
    sequences = [((5, 6, 7), (8,)), ((9, 6), (5, 7, 8, 9)), ((5, 8, 8, 7, 6), (9, 9))]
    expected = [slow_logprob(policy, *sequence) for sequence in sequences]
    for rows in (1, 2, 128):
        found = sequence_logprobs(policy, sequences, batch_rows=rows)
        assert found == pytest.approx(expected, abs=1e-9)


def theory_step(base: Path, beta: float) -> tuple[Trainer, StepBatch, Any]:
    """A trainer whose reference differs from its policy, and a batch of two groups."""
    training = make_training(**THEORY)
    method = make_method("phases", training, kl_in_reward=beta, reference="base", first="rl")
    trainer = make_trainer(load_double(base), training, method=method, shadow=True)
    with torch.no_grad():
        for reference in trainer.policy.parameters["shadow"]:
            reference.add_(0.05 * torch.sin(torch.arange(reference.numel()).view_as(reference)))
    policy = trainer.policy.sampler
    vocabulary = policy.model.config.vocab_size
    drawn = [row for row in make_rows(vocabulary, hybrids=False) if row.kind == "rollout"][:6]
    rows = []
    for i, row in enumerate(drawn):
        total = sequence_logprobs(policy, [(row.prompt_ids, row.response_ids)])[0]
        split = (total, *([0.0] * (len(row.response_ids) - 1)))
        rows.append(replace(row, reward=float(i % 3 == 0), sampled_logprobs=split))
    groups = (Group(PROBLEM, tuple(rows[:3])), Group(PROBLEM, tuple(rows[3:])))
    return trainer, StepBatch(tuple(rows), groups), method


def test_the_penalty_is_the_sum_over_the_answer_against_the_reference(base: Path) -> None:
    trainer, batch, method = theory_step(base, 0.3)
    penalised = method._penalised(trainer, batch, 1, 0.3)
    policy = trainer.policy.sampler
    expected: list[float] = []
    for group in batch.groups:
        left = []
        for row in group.rows:
            with torch.no_grad():
                ours = slow_logprob(policy, row.prompt_ids, row.response_ids)
                with trainer.shadow_active():
                    theirs = slow_logprob(policy, row.prompt_ids, row.response_ids)
            assert row.reward is not None
            assert abs(ours - theirs) > 1e-3
            left.append(row.reward - 0.3 * (ours - theirs))
        expected += [value - sum(left) / 3 for value in left]
    assert [row.advantage for row in penalised.rows] == pytest.approx(expected, abs=1e-8)


def test_the_update_follows_the_gradient_of_the_penalised_reward(base: Path) -> None:
    """mean over answers of (penalised reward - group mean) grad log p(answer), by autograd."""
    trainer, batch, method = theory_step(base, 0.3)
    penalised = method._penalised(trainer, batch, 1, 0.3)
    model = trainer.policy.model
    loss = torch.zeros((), dtype=torch.float64)
    for row in penalised.rows:
        ids = torch.tensor([[*row.prompt_ids, *row.response_ids]])
        logprob = torch.log_softmax(model(input_ids=ids).logits[0, :-1], -1)
        start = len(row.prompt_ids) - 1
        taken = logprob[range(start, ids.shape[1] - 1), list(row.response_ids)]
        loss = loss - row.advantage * taken.sum() / len(penalised.rows)
    loss.backward()
    expected = trainer.policy.take_gradient()["base"]
    seen: list[torch.Tensor] = []
    trainer.descend = lambda group, direction, phase: seen.append(direction.flat["base"])  # type: ignore[method-assign, misc, assignment]
    method.update(trainer, batch, 1)
    assert torch.allclose(seen[0], expected, rtol=0, atol=1e-9)


def test_the_reference_moves_at_the_change_of_phase_only_if_it_is_the_first_phase(
    base: Path, tmp_path: Path
) -> None:
    """Before its first update the policy is the first phase's: no distance, no penalty."""
    for reference, distance in (("first", 0.0), ("base", 1e-3)):
        options = {"steps": 2, "second_steps": 2, "kl_in_reward": 0.1, "reference": reference}
        spec = make_spec(base, "phases", options=options, probe_every=100, **THEORY)
        train_run(spec, results=tmp_path / reference, threads=1)
        lines = read_lines(spec.folder(tmp_path / reference).dynamics)
        at_change = lines[3]["kl_sequence"]
        assert (abs(at_change) < 1e-4) if distance == 0.0 else (abs(at_change) > distance)
        assert "kl_sequence" not in lines[2]


def test_a_killed_theory_run_ends_like_one_that_was_not(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"steps": 2, "second_steps": 3, "kl_in_reward": 0.1}
    spec = make_spec(base, "phases", options=options, probe_every=100, checkpoint_every=1, **THEORY)
    train_run(spec, results=tmp_path / "a", threads=1)
    original = Run.step

    def killed(self: Run) -> dict[str, Any]:
        if self.counters.step == 4:
            raise KeyboardInterrupt
        return original(self)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "step", killed)
        train_run(spec, results=tmp_path / "b", threads=1)
    train_run(spec, results=tmp_path / "b", threads=1)
    ours, theirs = (spec.folder(tmp_path / name).dynamics.read_text() for name in "ab")
    assert ours == theirs
    assert json.loads(ours.splitlines()[-1])["step"] == 5


@pytest.mark.parametrize(
    ("options", "training", "reason"),
    [
        ({"kl_in_reward": 0.0}, THEORY, "beta above 0"),
        ({"kl_in_reward": 0.1}, {}, "norm_adv_by_std_in_grpo is True"),
        ({"kl_in_reward": 0.1}, THEORY | {"kl_coef": 0.1}, "kl_coef is 0.1"),
        ({"kl_in_reward": 0.1}, THEORY | {"temperature": 0.7}, "temperature is 0.7"),
        ({"kl_in_reward": 0.1}, THEORY | {"loss_agg_mode": "token-mean"}, "seq-mean-token-sum"),
    ],
)
def test_what_is_no_theory_arm_is_refused(
    options: dict[str, Any], training: dict[str, Any], reason: str
) -> None:
    method = make_method("phases", make_training(**training), **options)
    with pytest.raises(ConfigError, match=reason):
        method.check("suite: methods.x")
