"""HPT: the gate per prompt, what it drops and counts, and what it reduces to."""

from __future__ import annotations

import functools
import sys
import types
from pathlib import Path

import pytest

from bridge.methods.base import StepStats
from bridge.methods.hpt import HPT
from bridge.store.schema import ConfigError
from tests.fixtures.method_runs import (
    assert_same_run,
    build,
    curve,
    direction,
    flat_gradient,
    make_group,
    relative_distance,
    row_logprobs,
    train,
)
from tests.fixtures.tiny_run import (
    load_double,
    make_method,
    make_options,
    make_spec,
    make_training,
)

pytestmark = pytest.mark.usefixtures("no_workers")


make_hpt = functools.partial(build, HPT)


# -- the gate -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("gate", "taught"), [(-1, ""), (0, "a"), (1, "ab"), (4, "abc")])
def test_each_prompt_goes_one_way(gate: int, taught: str) -> None:
    groups = [
        make_group([0.0] * 4, name="a", shown=1.0),
        make_group([0.0, 1.0, 0.0, 0.0], name="b", shown=0.0),
        make_group([1.0] * 4, name="c", shown=1.0),
    ]
    rows = make_hpt(gate=gate).rows(groups, (), 1)
    shown = [row for row in rows if row.kind == "demonstration"]
    assert shown == [group.demonstration for group in groups if group.problem.id in taught]
    sampled = [row.problem.id for row in rows if row.kind == "rollout"]
    assert sampled == [name for name in "abc" if name not in taught for _ in range(4)]


def test_right_is_what_earns_the_full_reward() -> None:
    training = make_training(reward_correct=2.0, reward_wrong=1.0)
    rows = make_hpt(training).rows([make_group([1.0, 1.0], shown=1.0)], (), 1)
    assert [row.kind for row in rows] == ["demonstration"]


def test_a_failed_prompt_without_a_demonstration_keeps_its_rollouts() -> None:
    rows = make_hpt(gate=1).rows([make_group([1.0, 0.0])], (), 1)
    assert [row.kind for row in rows] == ["rollout"] * 2
    assert rows[0].advantage == -rows[1].advantage > 0


def test_every_prompt_weighs_the_same() -> None:
    """One failing prompt of four: its demonstration has a quarter of the weight, however short."""
    groups = [make_group([0.0] * 4, name="a", shown=1.0)]
    groups += [make_group([1.0, 0.0], name=name) for name in "bcd"]
    assert make_hpt(beta=0.4).mix(1, StepStats(1, groups)) == (0.75, pytest.approx(0.1))
    assert make_hpt().mix(1, StepStats(1, groups[1:])) == (1.0, 0.0)
    assert make_hpt().mix(1, StepStats(1, groups[:1])) == (0.0, 1.0)


def test_a_failed_prompt_without_a_demonstration_counts_as_rl() -> None:
    groups = [make_group([0.0, 0.0], name="a"), make_group([0.0, 0.0], name="b", shown=1.0)]
    assert make_hpt().mix(1, StepStats(1, groups)) == (0.5, 0.5)


def test_weigh_terms_is_the_rule_of_before() -> None:
    groups = [make_group([0.0] * 4, name="a", shown=1.0)]
    assert make_hpt(beta=0.3, weigh="terms").mix(1, StepStats(1, groups)) == (1.0, 0.3)


def test_a_gate_that_no_prompt_can_pass_by_any_count_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^here: options\.gate is 9, but .* lower it\.$"):
        make_hpt(make_training(n=8), gate=9).check("here")
    make_hpt(make_training(n=8), gate=8).check("here")


def test_the_method_of_the_how_to_is_this_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (root / "docs/how-to/add-a-method.md").read_text(encoding="utf-8")
    blocks = text.split("```python\n")[1:]
    module = types.ModuleType("my_hpt")
    monkeypatch.setitem(sys.modules, "my_hpt", module)  # where pydantic looks names up
    exec(compile(blocks[0].split("```")[0], "my_hpt", "exec"), vars(module))
    taught = vars(module)["METHOD"]
    groups = [
        make_group([0.0] * 4, name="a", shown=1.0),
        make_group([0.0, 1.0, 0.0, 0.0], name="b", shown=0.0),
        make_group([0.0] * 4, name="c"),
        make_group([1.0] * 4, name="d", shown=1.0),
    ]
    for gate in (-1, 0, 1, 4):
        options = {"steps": 3, "gate": gate, "beta": 0.3}
        theirs = taught(taught.Options(**options), make_training())
        ours = make_hpt(**options, weigh="terms")
        assert theirs.n_steps == ours.n_steps == 3
        assert theirs.rows(groups, (), 1) == ours.rows(groups, (), 1)
        assert theirs.mix(1, StepStats(1)) == ours.mix(1, StepStats(1))
        assert theirs.demonstrations_wanted(1) == ours.demonstrations_wanted(1)


# -- the gradient -------------------------------------------------------------------------------


def test_the_gradient_is_that_of_the_written_loss(base: Path) -> None:
    policy = load_double(base)
    groups = [
        make_group([0.0] * 3, name="failed", shown=1.0),
        make_group([1.0, 0.0, 0.0], name="mixed", shown=1.0),
        make_group([0.0] * 5, name="hopeless"),
    ]
    method = make_hpt(make_training(norm_adv_by_std_in_grpo=False), beta=0.3)
    found = direction(policy, method, groups)
    shown = groups[0].demonstration
    assert shown is not None
    advantages = [2 / 3, -1 / 3, -1 / 3]
    rl = sum(
        (-a * (lp - lp.detach()).exp()).sum()
        for a, lp in zip(
            advantages, [row_logprobs(policy, row) for row in groups[1].rows], strict=True
        )
    )
    # The rollouts without spread count, the dropped ones do not.
    n_tokens = sum(len(row.response_ids) for group in groups[1:] for row in group.rows)
    loss = 2 / 3 * rl / n_tokens - 0.3 / 3 * row_logprobs(policy, shown).mean()
    expected = flat_gradient(policy, loss)
    assert relative_distance(found, expected) < 1e-6


def test_a_prompt_that_is_always_solved_gives_no_gradient(base: Path) -> None:
    groups = [make_group([1.0] * 4, shown=1.0)]
    assert not direction(load_double(base), make_hpt(), groups).any()


def test_a_gate_that_fails_all_is_sft_on_their_demonstrations(base: Path) -> None:
    policy = load_double(base)
    groups = [make_group([1.0, 0.0], name=name, shown=1.0) for name in "abc"]
    shown = [group.demonstration for group in groups if group.demonstration is not None]
    found = direction(policy, make_hpt(gate=6), groups)
    assert (found == direction(policy, make_method("sft"), (), shown)).all()


# -- whole runs ---------------------------------------------------------------------------------


def test_without_a_gate_it_is_rl_zero(base: Path, tmp_path: Path) -> None:
    hpt = train(make_spec(base, "hpt", options={"gate": -1}), tmp_path)
    rl_zero = train(make_spec(base, "rl_zero"), tmp_path)
    assert_same_run(
        hpt, rl_zero, "reward_mean", "rl_loss", "grad_norm", "heldout_accuracy", "rows_dropped"
    )


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_dropped_rollouts_and_missing_demonstrations_are_counted(
    base: Path, tmp_path: Path, share: float
) -> None:
    options = make_options("hpt", 2, gate=6, demonstrated_share=share)
    spec = make_spec(base, "hpt", options=options, dataset={"demonstrations": 8})
    folder = train(spec, tmp_path)
    keys = ("gate_failed_share", "gate_without_demonstration", "rows_dropped")
    for failed, missing, dropped in curve(folder, *keys)[1:]:
        assert failed == 1.0 and missing <= 6 * (1 - share)
        assert dropped == 6 * (6 - missing)
