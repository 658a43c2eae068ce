"""Arms, refusals and tables of the coupling study with real generation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bridge.models.checkpoint import Policy
from bridge.plan.grid import Plan, load_plan
from bridge.step.rows import demonstration_row
from bridge.store.records import RecordError, RunFolder, jsonl, write_json
from bridge.store.schema import ConfigError
from bridge.tasks.base import Problem
from studies.coupling import measuring
from studies.coupling.arms import (
    CouplingError,
    arms,
    check_change_of_phase,
    check_demonstrations,
    check_predictions,
    check_probes,
    check_same_scores,
    target_name,
)
from studies.coupling.figures import draw_generation
from studies.coupling.measuring import check_phases_agree, demonstration_losses
from studies.coupling.predicting import predict
from studies.coupling.study import Study, dataset
from studies.coupling.tables import courses, sign_table, size_table
from tests.fixtures.tiny_run import (
    PROBLEM,
    load_double,
    make_base,
    make_trainer,
    make_training,
)


@pytest.fixture(scope="module")
def plan(root: Path) -> Plan:
    return load_plan("coupling", root=root)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return load_double(make_base(tmp_path_factory.mktemp("coupling") / "base", steps=5))


def test_every_second_phase_has_the_run_that_ends_where_it_starts(plan: Plan) -> None:
    found = arms(plan)
    assert {arm.order for arm in found} == {
        "SFT then RL",
        "RL then SFT",
        "SFT then SFT",
        "RL then RL",
    }
    for arm in found:
        assert (arm.first.seed, arm.first.dataset) == (arm.whole.seed, arm.whole.dataset)
        assert arm.first.method_options["second_steps"] == 0
        assert arm.first.method_options["steps"] == arm.options.steps
        if arm.options.first == "rl":
            assert arm.first.method_options["kl_in_reward"] == arm.options.kl_in_reward
    betas = {arm.beta for arm in found if arm.penalty == "k1 in the reward"}
    assert betas == {0.01, 0.04, 0.1, 0.5, 1.0}
    assert {arm.penalty for arm in found} == {"k1 in the reward", "k3 in the loss", "no penalty"}
    assert {target_name(arm.whole) for arm in found} == {
        "verifier format",
        "verifier format, 30 % noise",
        "bare label",
    }


def test_a_second_phase_without_its_first_is_refused(plan: Plan) -> None:
    kept = tuple(s for s in plan.runs if s.label != "sft")
    with pytest.raises(CouplingError, match="second_steps: 0"):
        arms(replace(plan, runs=kept))


def test_a_theory_arm_without_beta_is_refused_before_anything_runs(root: Path) -> None:
    overrides = {"methods": {"sft_rl_k1_0.1": {"options": {"kl_in_reward": 0.0}}}}
    with pytest.raises(ConfigError, match="beta above 0"):
        load_plan("coupling", root=root, overrides=overrides)


@pytest.mark.parametrize(
    ("dataset", "paid", "reason"),
    [
        ("boxed", 0.5, "50% of the"),
        ("noisy", 0.4, "70% were promised"),
        ("bare", 0.9, "target: box"),
    ],
)
def test_demonstrations_that_are_not_what_was_promised_are_refused(
    plan: Plan, dataset: str, paid: float, reason: str
) -> None:
    spec = next(s for s in plan.runs if s.dataset == dataset)
    with pytest.raises(CouplingError, match=reason):
        check_demonstrations(spec, paid)
    check_demonstrations(spec, {"boxed": 1.0, "noisy": 0.7, "bare": 0.0}[dataset])


def test_a_probe_question_that_is_trained_on_is_refused() -> None:
    check_probes("d", ["find a"], ["find b"])
    with pytest.raises(CouplingError, match="FIND  a"):
        check_probes("d", ["find a", "find c"], ["find b", "FIND  a"])


def test_both_phases_score_alike_unless_the_temperature_or_the_prompt_changes(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems = [replace(PROBLEM, id=str(i), demonstration=f"\\boxed{{ {i} }}") for i in range(3)]
    check_phases_agree("run", policy, problems, make_training())
    with pytest.raises(CouplingError, match="one prompt template"):
        check_phases_agree("run", policy, problems, make_training(temperature=0.7))

    def other_template(policy: Policy, problem: Problem) -> Any:
        row = demonstration_row(policy, problem)
        return replace(row, prompt_ids=row.prompt_ids[1:])

    monkeypatch.setattr(measuring, "demonstration_row", other_template)
    with pytest.raises(CouplingError, match="one prompt template"):
        check_phases_agree("run", policy, problems, make_training())


def test_a_number_that_is_not_one_does_not_pass_as_equal() -> None:
    with pytest.raises(CouplingError):
        check_same_scores("run", [0.0], [float("nan")])


def test_the_loss_is_the_trainers_per_token_loss_times_the_tokens(policy: Policy) -> None:
    problem = replace(PROBLEM, demonstration="a = 3 + 4 = 7 ; \\boxed{ 7 }")
    row = demonstration_row(policy, problem)
    per_token = make_trainer(policy, make_training()).demonstration_loss([row])
    losses = demonstration_losses(policy, [problem])
    assert losses[0] == pytest.approx(per_token * len(row.response_ids), abs=1e-9)


def test_nothing_is_predicted_once_a_second_phase_has_begun(plan: Plan, tmp_path: Path) -> None:
    study = Study(plan, tmp_path, None)  # type: ignore[arg-type]
    found = arms(plan)
    folder: RunFolder = found[0].whole.folder(tmp_path)
    folder.path.mkdir(parents=True)
    folder.dynamics.write_text("{}\n")
    write_json(folder.spec, found[0].whole.as_dict())
    with pytest.raises(CouplingError, match="before the predictions were written"):
        predict(study, found)
    # Left there by a run with another configuration, which will be trained anew: no second phase.
    write_json(folder.spec, {"train_hash": "other"})
    with pytest.raises(RecordError, match=r"done\.json"):
        predict(study, found)


def test_predictions_of_other_runs_are_refused(plan: Plan) -> None:
    found = arms(plan)
    hashes = [(arm.whole.train_hash, arm.first.train_hash) for arm in found]
    check_predictions(found, hashes)
    with pytest.raises(CouplingError, match="is not the run that"):
        check_predictions(found, [(whole, "changed") for whole, _ in hashes])


def test_a_first_phase_that_ended_elsewhere_is_refused(plan: Plan) -> None:
    arm = next(a for a in arms(plan) if a.order == "SFT then RL")

    def lines(loss: float | None) -> list[dict[str, float | None]]:
        return [{"step": 0}, {"step": 30, "demo_loss_heldout": loss}]

    check_change_of_phase(arm, [*lines(1.0), {"step": 31, "demo_loss_heldout": 2.0}], lines(1.0))
    with pytest.raises(CouplingError, match="another policy"):
        check_change_of_phase(arm, lines(1.0), lines(1.00001))
    with pytest.raises(CouplingError, match="probe_every"):
        check_change_of_phase(arm, lines(None), lines(1.0))


def test_the_probe_is_demonstrated_validation_problems(plan: Plan) -> None:
    study = Study(plan, Path(), None)  # type: ignore[arg-type]
    spec = arms(plan)[0].whole
    probe = study.probe(spec)
    assert len(probe) == study.sizes.prompts == 48
    assert {p.id for p in probe} <= {p.id for p in dataset(spec).validation}
    assert all(p.demonstration for p in probe)


def changes(**columns: Any) -> pd.DataFrame:
    """Three seeds of SFT then RL with their controls."""
    rows = []
    for seed, observed in enumerate((1.0, 1.2, 1.1)):
        cell = {"model": "m", "target": "bare label", "dataset": "bare", "seed": seed}
        cell |= {"first_steps": 30, "reference": "first", "first_hash": f"first{seed}"}
        rows.append(
            {
                **cell,
                "order": "SFT then RL",
                "penalty": "k1 in the reward",
                "beta": 0.1,
                "gap": 0.2,
                "predicted": 2.0,
                "loss_change": observed,
                "reward_change": 0.3,
                "residual": 0.4,
                "without_success": 0.1,
                "lenient_change": 0.2,
                "kl_moved": 3.0,
                "reward_ceiling": 1.2,
                "ceiling_is_vacuous": True,
                **columns,
            }
        )
        rows.append(
            {
                **cell,
                "order": "SFT then SFT",
                "penalty": "no penalty",
                "beta": 0.0,
                "gap": 0.2,
                "loss_change": -0.5 + 0.01 * seed,
                "reward_change": 0.0,
            }
        )
    return pd.DataFrame(rows)


def test_the_sign_table_needs_an_interval_on_the_predicted_side() -> None:
    row: Any = sign_table(changes()).iloc[0]
    assert (row["seeds"], row["quantity"], row["predicted_sign"]) == (3, "L", 1.0)
    # t interval of 1.0, 1.2, 1.1: 1.1 +- 4.303 * 0.1 / sqrt(3)
    assert [row["low"], row["high"]] == pytest.approx([1.1 - 0.2484, 1.1 + 0.2484], abs=1e-3)
    assert row["supported"]
    assert row["control"] == pytest.approx(-0.49)
    assert row["beats_control"]
    assert row["ceiling_is_vacuous"]
    wrong: Any = sign_table(changes(predicted=-2.0)).iloc[0]
    assert not wrong["supported"]
    assert not wrong["beats_control"]
    assert wrong["right"] == 0.0


def test_a_control_is_more_of_the_same_first_phase_seed_by_seed() -> None:
    frame = changes()
    more = frame[frame["order"] == "SFT then SFT"]
    # As far as the arm in the mean, but all over the place: the interval of the difference holds 0.
    wild = more.assign(loss_change=[3.0, -2.0, 2.0])
    row: Any = sign_table(pd.concat([frame.drop(more.index), wild])).iloc[0]
    assert row["control"] == pytest.approx(1.0)
    assert row["supported"]
    assert not row["beats_control"]
    elsewhere = more.assign(first_hash="another first phase")
    alone: Any = sign_table(pd.concat([frame.drop(more.index), elsewhere])).iloc[0]
    assert np.isnan(alone["control"])
    assert not alone["beats_control"]


def test_runs_with_another_reference_are_a_row_of_their_own() -> None:
    other = changes().assign(reference="base")
    assert sign_table(pd.concat([changes(), other]))["seeds"].tolist() == [3, 3]


def test_sizes_are_a_line_through_the_runs_of_a_penalty() -> None:
    frame = changes()
    rl = frame["order"] == "SFT then RL"
    frame.loc[rl, "predicted"] = [1.0, 2.0, 4.0]
    frame.loc[rl, "loss_change"] = [1.5, 2.0, 3.0]  # 1 + x / 2
    table = size_table(frame)
    assert table["beta"].isna().tolist() == [True, False]
    assert table["slope"].tolist() == pytest.approx([0.5, 0.5])
    assert table["intercept"].tolist() == pytest.approx([1.0, 1.0])
    assert table["r2"].tolist() == pytest.approx([1.0, 1.0])
    frame.loc[rl, "loss_change"] = [1.5, 2.5, 3.0]
    # By hand: slope 13/28, residual sum of squares 9/56 of a total of 7/6.
    noisy: Any = size_table(frame).iloc[0]
    assert noisy["slope"] == pytest.approx(13 / 28)
    assert noisy["r2"] == pytest.approx(1 - (9 / 56) / (7 / 6))
    assert np.isnan(size_table(changes())["slope"]).all()  # predictions that do not vary


def test_one_seed_supports_nothing() -> None:
    frame = changes()
    row: Any = sign_table(frame[frame["seed"] == 0]).iloc[0]
    assert not row["supported"]
    assert np.isinf(row["low"])


def test_without_a_size_the_gap_gives_the_sign() -> None:
    frame = changes(predicted=float("nan"))
    row: Any = sign_table(frame).iloc[0]
    assert row["predicted_sign"] == 1.0
    turned = frame.assign(order=frame["order"].replace({"SFT then RL": "RL then SFT"}))
    row = sign_table(turned).iloc[0]
    assert (row["quantity"], row["predicted_sign"], row["supported"]) == ("J", -1.0, False)


def test_courses_join_both_phases(plan: Plan, tmp_path: Path) -> None:
    arm = next(a for a in arms(plan) if a.order == "SFT then RL")
    folder = arm.whole.folder(tmp_path)
    folder.path.mkdir(parents=True)
    probed = {"demo_loss_heldout_nats": 1.5, "heldout_reward": 0.5, "heldout_lenient": 0.75}
    lines: list[dict[str, float]] = [{"step": step, **probed} for step in (0, 15, 30, 50, 70)]
    lines.insert(1, {"step": 1})
    folder.dynamics.write_text(jsonl(lines))
    frame = courses(tmp_path, [arm])
    assert frame["progress"].tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert set(frame["loss"]) == {1.5}
    assert set(frame["lenient"]) == {0.75}
    assert set(frame["target"]) == {"verifier format"}
    unprobed = arm.whole.training.model_copy(update={"probe_samples": 0})
    with pytest.raises(CouplingError, match="probe_samples is 0"):
        courses(tmp_path, [replace(arm, whole=replace(arm.whole, training=unprobed))])


def test_the_figures_of_a_suite_are_drawn(tmp_path: Path) -> None:
    rows = [
        {
            "order": order,
            "target": "bare label",
            "parameters": "k1 in the reward",
            "beta": 0.1,
            "first_steps": 30,
            "reference": "first",
            "progress": progress,
            "loss": 1.0 + progress,
            "reward": 0.5,
        }
        for order in ("SFT then RL", "RL then SFT", "SFT then SFT")
        for progress in (0.0, 1.0, 2.0)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "courses.csv", index=False)
    changes().to_csv(tmp_path / "changes.csv", index=False)
    turned = changes().replace({"SFT then RL": "RL then SFT", "SFT then SFT": "RL then RL"})
    pd.concat([sign_table(changes()), sign_table(turned)]).to_csv(
        tmp_path / "signs.csv", index=False
    )
    draw_generation(tmp_path, tmp_path / "figures")
    names = {path.name for path in (tmp_path / "figures").glob("*.png")}
    assert names == {f"coupling_{n}.png" for n in ("courses", "predictions", "signs")}
