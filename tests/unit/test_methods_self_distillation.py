"""SDFT and OPSD: who the teacher is, what it reads, the term's own count, and the controls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from bridge.methods.self_distillation import SelfDistillation
from bridge.models.checkpoint import Policy, load_policy
from bridge.step.batches import StepBatch
from bridge.step.rows import Group, Row
from bridge.store.schema import ConfigError
from bridge.store.settings import TrainingConfig
from bridge.tasks.base import Problem, ProblemError
from tests.fixtures.method_runs import (
    assert_same_run,
    curve,
    flat_gradient,
    relative_distance,
    same_weights,
    train,
    weights,
)
from tests.fixtures.tiny_run import (
    load_double,
    make_method,
    make_options,
    make_spec,
    make_trainer,
    make_training,
)

pytestmark = pytest.mark.usefixtures("no_workers")

PLAIN: dict[str, Any] = {
    "n": 1,
    "rl_weight": 0.0,
    "teacher_template": "{question} ; {demonstration}",
}
TEXTS = ("a = 3 + 4 = 7", "\\boxed{ 3 }", "b = 7 ; a")


def make_distilling(
    policy: Policy, training: TrainingConfig | None = None, **options: Any
) -> SelfDistillation:
    method = make_method("sdft", training, **{**PLAIN, "skip_tokens": 0, **options})
    assert isinstance(method, SelfDistillation)
    method.policy = policy
    return method


def answers(policy: Policy, *texts: str) -> list[Group]:
    """One answer a prompt, to prompts that have a demonstration."""
    groups = []
    for i, text in enumerate(texts):
        shown = f"a = {i} + 4 = 7 ; \\boxed{{ 7 }}"
        problem = Problem(f"p{i}", f"mod 10 : a = {i} + 4 ; find a", "7", 1, demonstration=shown)
        ids = tuple(policy.completion_ids(text))
        prompt = tuple(policy.prompt_ids(problem.question))
        groups.append(Group(problem, (Row("rollout", problem, prompt, ids, reward=0.0),)))
    return groups


def taken(
    policy: Policy, method: SelfDistillation, groups: list[Group], teacher: Policy | None = None
) -> Tensor:
    trainer = make_trainer(policy, method.training, method=method, reference=teacher)
    batch = StepBatch(tuple(method.rows(groups, (), 1)), tuple(groups))
    return trainer.gradient("ref_kl", batch).gradient.flat["base"]


def nudged(policy: Policy) -> Policy:
    """The policy with other weights, in place."""
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(1.05)
    return policy


def written_loss(
    policy: Policy, teacher: Policy, method: SelfDistillation, groups: list[Group], mode: str
) -> Tensor:
    """Row by row, without padding, from whole logits."""
    skip, total = method.options.skip_tokens, torch.zeros((), dtype=torch.float64)
    rows = [row for row in method.rows(groups, (), 1) if len(row.response_ids) > skip]
    n_tokens = sum(len(row.response_ids) - skip for row in rows)
    for row in rows:
        found = []
        asked = (policy.model, row.prompt_ids), (teacher.model, row.teacher_prompt_ids)
        for model, prompt in asked:
            ids = torch.tensor([[*prompt, *row.response_ids]])
            logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
            found.append(logits.log_softmax(-1)[skip:])
        p, q = found[0], found[1].detach()
        y = torch.tensor(row.response_ids[skip:])[:, None]
        m = (p.exp() / 2 + q.exp() / 2).log()
        loss = {
            "sampled": -(q - p).detach().gather(1, y) * p.gather(1, y),
            "reverse": p.exp() * (p - q),
            "forward": q.exp() * (q - p),
            "js": (p.exp() * (p - m) + q.exp() * (q - m)) / 2,
        }[method.options.divergence].sum()
        total = total + loss / (n_tokens if mode == "token-mean" else len(rows) * len(y))
    return total


@pytest.mark.parametrize("form", ["sampled", "reverse", "forward", "js"])
@pytest.mark.parametrize(("mode", "skip"), [("token-mean", 0), ("seq-mean-token-mean", 3)])
def test_the_gradient_is_that_of_the_written_loss(
    base: Path, form: str, mode: Any, skip: int
) -> None:
    policy, teacher = load_double(base), nudged(load_double(base))
    training = make_training(loss_agg_mode=mode, micro_batch_rows=2)
    method = make_distilling(policy, training, divergence=form, skip_tokens=skip)
    groups = answers(policy, *TEXTS)
    found = taken(policy, method, groups, teacher)
    expected = flat_gradient(policy, written_loss(policy, teacher, method, groups, mode))
    assert relative_distance(found, expected) < 1e-6


# -- the teacher --------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["sampled", "reverse", "forward", "js"])
def test_under_the_same_prompt_only_a_teacher_of_other_weights_teaches(
    base: Path, form: str
) -> None:
    policy = load_double(base)
    groups = answers(policy, *TEXTS)

    def largest(teacher: str) -> float:
        same = {"teacher_template": "{question}", "teacher": teacher}
        method = make_distilling(policy, divergence=form, **same)
        return float(taken(policy, method, groups, load_double(base)).abs().max())

    assert largest("base") < 1e-14 and largest("live") < 1e-14
    nudged(policy)
    assert largest("base") > 1e-4 and largest("live") < 1e-14


@pytest.mark.parametrize("shown", ["own", "other", "none"])
def test_a_longer_prompt_teaches_at_once(base: Path, shown: str) -> None:
    policy = load_double(base)
    method = make_distilling(policy, teacher="live", shown=shown)
    assert taken(policy, method, answers(policy, *TEXTS)).norm() > 1e-3


def test_an_average_that_follows_whole_is_the_live_one_a_step_late(
    base: Path, tmp_path: Path
) -> None:
    def end(label: str, n: int, **options: Any) -> Any:
        options = make_options("sdft", n, **PLAIN, **options)
        return train(make_spec(base, "sdft", label=label, options=options), tmp_path)

    frozen = end("frozen", 2, ema_rate=0.0)
    whole = end("whole", 2, ema_rate=1.0)
    assert same_weights(frozen, end("base", 2, teacher="base"))
    assert same_weights(whole, end("live", 2, teacher="live"))  # after one step it is the policy
    assert not same_weights(whole, frozen)


def test_the_average_moves_by_its_rate(base: Path) -> None:
    policy = load_policy(base)
    trainer = make_trainer(policy, make_training(), reference=load_policy(base))
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(1.0)
    reference: Any = trainer.reference
    before = {name: w.clone() for name, w in reference.state()}
    reference.follow(0.25)
    for name, weight in reference.state():
        assert torch.allclose(weight, before[name] + 0.25)


# -- what it reads ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "expected"), [("own", "0 1 2"), ("other", "1 2 0"), ("none", "")]
)
def test_the_controls(base: Path, shown: str, expected: str) -> None:
    policy = load_policy(base)
    rows = make_distilling(policy, shown=shown).rows(answers(policy, *TEXTS), (), 1)
    read = [policy.text(list(row.teacher_prompt_ids)) for row in rows]
    wanted = [f"; a = {i} + 4 = 7" for i in expected.split()] or [""] * 3
    assert all(want in text for want, text in zip(wanted, read, strict=True))
    assert all(f"mod 10 : a = {i} + 4 ; find a" in text for i, text in enumerate(read))
    assert sum("\\boxed" in text for text in read) == len(expected.split())


def test_a_prompt_without_a_demonstration_is_not_taught(base: Path) -> None:
    policy = load_policy(base)
    groups = answers(policy, *TEXTS)
    plain = replace(groups[1].problem, demonstration=None)
    groups[1] = Group(plain, (replace(groups[1].rows[0], problem=plain),))
    rows = make_distilling(policy).rows(groups, (), 1)
    assert [bool(row.teacher_prompt_ids) for row in rows] == [True, False, True]
    alone = make_distilling(policy, shown="other").rows(groups[:2], (), 1)
    assert not any(row.teacher_prompt_ids for row in alone)  # there is no other one


@pytest.mark.parametrize("shown", ["own", "other", "none"])
def test_a_teachers_prompt_is_never_cut(base: Path, shown: str) -> None:
    policy = load_policy(base)
    pool = [group.problem for group in answers(policy, *TEXTS)]
    dataset: Any = SimpleNamespace(demonstrations=pool)
    nothing: Any = None
    make_distilling(policy, shown=shown).before_run(nothing, dataset, nothing)
    long = "{demonstration} ; " * 9 + "{question}" * 9
    method = make_distilling(policy, shown=shown, teacher_template=long)
    with pytest.raises(ProblemError, match=r"^problem 'p0' needs \d+ tokens .* is 96; .*\.$"):
        method.before_run(nothing, dataset, nothing)


# -- counts and mixing --------------------------------------------------------------------------


def test_skipped_tokens_are_in_no_count(base: Path) -> None:
    policy = load_policy(base)
    rows = make_distilling(policy, skip_tokens=4).rows(answers(policy, *TEXTS), (), 1)
    batch, lengths = StepBatch(tuple(rows)), [len(row.response_ids) for row in rows]
    assert batch.n_tokens("ref_kl") == sum(max(0, n - 4) for n in lengths)
    assert batch.n_rows("ref_kl") == sum(n > 4 for n in lengths) < 3
    assert batch.n_tokens("rl") == sum(lengths)


def test_each_term_keeps_its_own_count(base: Path) -> None:
    """More rows of one term leave the gradient of the other alone."""
    policy = load_double(base)
    method = make_distilling(policy, teacher="live")
    taught = method.rows(answers(policy, *TEXTS), (), 1)
    plain = [replace(row, advantage=1.0, teacher_prompt_ids=()) for row in taught]
    trainer = make_trainer(policy, method.training, method=method)

    def gradient(rows: list[Row]) -> Tensor:
        trainer.begin_step()
        return trainer.gradient("ref_kl", StepBatch(tuple(rows))).gradient.flat["base"]

    alone = gradient(taught)
    assert torch.allclose(gradient([*taught, *plain]), alone, atol=1e-14)
    assert torch.allclose(gradient(taught * 2), alone, atol=1e-14)


def test_without_the_divergence_it_is_grpo(base: Path, tmp_path: Path) -> None:
    options = make_options("sdft", kappa=0.0, demonstrated_share=0.0)
    ours = train(make_spec(base, "sdft", options=options), tmp_path)
    grpo = train(make_spec(base, "rl_zero"), tmp_path)
    assert_same_run(ours, grpo, "rl_loss", "grad_norm")


@pytest.mark.parametrize("name", ["sdft", "opsd"])
def test_a_run_of_distillation_alone(base: Path, tmp_path: Path, name: str) -> None:
    options = make_options(name, 2, **PLAIN)
    folder = train(make_spec(base, name, options=options), tmp_path)
    seen = curve(folder, "ref_kl_loss", "rl_loss", "taught_rows", "teacher_agreement")[1:]
    for loss, rl_loss, taught, agreement in seen:
        assert loss > 0 and rl_loss is None and taught == 6 and 0 <= agreement <= 1
    start = load_policy(base).model.state_dict()
    assert any(not torch.equal(w, start[name]) for name, w in weights(folder).items())


def test_what_it_cannot_do_is_refused() -> None:
    make_method("sdft", **PLAIN).check("here")
    for options, training, message in (
        ({"teacher_template": "{demonstration}"}, {}, r"must hold \{question\}"),
        ({"rl_weight": 0.5}, {}, "two or more"),
        ({}, {"kl_coef": 0.1}, "kl_coef"),
        ({}, {"ppo_epochs": 2}, "ppo_epochs"),
        ({}, {"precision": "bfloat16"}, "bfloat16 with teacher ema"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_method("sdft", make_training(**training), **{**PLAIN, **options}).check("here")
