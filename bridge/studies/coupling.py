"""The coupling study with real generation: train, predict, train on, compare.

    python -m bridge.studies.coupling --suite coupling_smoke

1. checks what the suite promises (formats, probes, code of both phases),
2. trains the base models and every run that is a first phase,
3. writes ``predictions.csv`` from those policies, before any second phase starts,
4. trains the runs of two phases,
5. writes ``changes.csv`` (predicted and observed, per run), ``signs.csv`` (per cell over seeds),
   ``courses.csv`` and the figures, from ``results/<suite>/coupling``.

What is finished is not done again. Protocol and readings: ``docs/studies/coupling.md``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bridge.analysis.coupling import draw_generation
from bridge.config import ConfigError, LocalModel
from bridge.grading.pool import GraderPool
from bridge.planning import Plan, RunSpec, load_family, load_plan
from bridge.policies.checkpoint import Policy, load_policy
from bridge.problems.base import Dataset, Problem
from bridge.records import base_folder, read_json, read_jsonl, suite_folder
from bridge.studies import estimates
from bridge.studies.coupling_arms import (
    Arm,
    CouplingError,
    arms,
    check_change_of_phase,
    check_demonstrations,
    check_predictions,
    check_probes,
    target_name,
)
from bridge.studies.coupling_tables import courses, sign_table
from bridge.studies.measuring import (
    Answers,
    check_phases_agree,
    demonstration_losses,
    log_of,
    policy_path,
    sample,
)


@dataclass(frozen=True)
class Study:
    """One suite with the sizes of its probes."""

    plan: Plan
    results: Path
    prompts: int
    samples: int

    @property
    def folder(self) -> Path:
        return suite_folder(self.results, self.plan.name) / "coupling"

    def probe(self, data: Dataset) -> list[Problem]:
        """Held-out prompts, each with a demonstration."""
        return [p for p in data.validation if p.demonstration is not None][: self.prompts]

    def base_path(self, spec: RunSpec) -> Path:
        model = spec.model_config
        if isinstance(model, LocalModel):
            return Path(model.path)
        return base_folder(self.results, spec.suite, spec.model)

    def policy(self, spec: RunSpec) -> Policy:
        """The final policy of a finished run.

        Raises:
            CouplingError: the run did not end well.
        """
        folder = spec.folder(self.results)
        done = read_json(folder.done)
        if done["status"] != "done":
            raise CouplingError(
                f"{folder.path} ended as '{done['status']}' ({done['reason']}): nothing can be "
                "predicted from it; change the suite or leave that seed out."
            )
        return load_policy(policy_path(done, folder.path))


def dataset(spec: RunSpec) -> Dataset:
    """Problems of a run."""
    family = load_family(spec.family)
    return family.dataset(family.Options.model_validate(spec.dataset_options))


# -- training ------------------------------------------------------------------------------------


def train_all(study: Study, specs: Sequence[RunSpec], jobs: int) -> None:
    """Train what is not finished, ``jobs`` at a time, with the command line's own ``train``."""
    waiting = [spec for spec in specs if not _finished(study, spec)]
    with ThreadPoolExecutor(jobs) as pool:
        for _ in pool.map(lambda spec: _train(study, spec), waiting):
            pass


def _finished(study: Study, spec: RunSpec) -> bool:
    done = spec.folder(study.results).done
    return done.is_file() and read_json(done)["train_hash"] == spec.train_hash


def _train(study: Study, spec: RunSpec) -> None:
    _command(
        study,
        "train",
        *("--dataset", spec.dataset, "--method", spec.label, "--seed", str(spec.seed)),
        spec=spec,
    )


def prepare(study: Study) -> None:
    """Make the base models that are missing."""
    for name in study.plan.tiny_models:
        if not (base_folder(study.results, study.plan.name, name) / "base.json").is_file():
            _command(study, "prepare", spec=next(s for s in study.plan.runs if s.model == name))


def _command(study: Study, command: str, *rest: str, spec: RunSpec) -> None:
    arguments = [sys.executable, "-m", "bridge", command, "--suite", study.plan.name]
    arguments += [
        "--results",
        str(study.results),
        "--overrides",
        "{}",
        "--model",
        spec.model,
        *rest,
    ]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CouplingError(f"`{' '.join(arguments[1:])}` failed: {done.stderr.strip()[-400:]}")


# -- before the second phase -----------------------------------------------------------------------


def check(study: Study, found: Sequence[Arm], grader: GraderPool) -> dict[str, float]:
    """Refuse what would make the comparison meaningless; return J(D) by dataset."""
    paid: dict[str, float] = {}
    for arm in found:
        spec = arm.whole
        if spec.dataset in paid:
            continue
        data = dataset(spec)
        probe = study.probe(data)
        check_probes(spec.dataset, [p.question for p in data.train], [p.question for p in probe])
        paid[spec.dataset] = float(demonstration_rewards(probe, spec, grader).mean())
        check_demonstrations(spec, paid[spec.dataset])
        base = load_policy(study.base_path(spec))
        check_phases_agree(f"{spec.label}/{spec.dataset}", base, probe, spec.training)
    return paid


def demonstration_rewards(
    problems: Sequence[Problem], spec: RunSpec, grader: GraderPool
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """[problems]: what the strict verifier pays for each demonstration."""
    from bridge.grading import GradeItem

    items = [GradeItem(text=p.demonstration or "", gold=p.answer) for p in problems]
    right, wrong = spec.training.reward_correct, spec.training.reward_wrong
    return np.array([right if g.verdict == "correct" else wrong for g in grader.grade(items)])


def predict(study: Study, found: Sequence[Arm], grader: GraderPool) -> pd.DataFrame:
    """Signs and sizes from the policies at the change of phase, and nothing later.

    Raises:
        CouplingError: a second phase has begun, so nothing can be predicted any more.
    """
    for arm in found:
        begun = arm.whole.folder(study.results).dynamics
        if begun.is_file():
            raise CouplingError(
                f"{begun.parent} has begun before the predictions were written; move it away and "
                "run the study again."
            )
    return pd.DataFrame([_prediction(study, arm, grader) for arm in found])


def _prediction(study: Study, arm: Arm, grader: GraderPool) -> dict[str, Any]:
    spec = arm.whole
    probe = study.probe(dataset(spec))
    answers = _answers(study, study.policy(arm.first), probe, spec, grader)
    paid = demonstration_rewards(probe, spec, grader)
    gap = estimates.over_prompts(answers.reward.mean(axis=1) - paid)
    row: dict[str, Any] = {
        **_names(arm),
        "expert_reward": paid.mean(),
        "reward_before": answers.reward.mean(),
        "lenient_before": answers.lenient.mean(),
        "run_hash": spec.train_hash,
        "first_hash": arm.first.train_hash,
        **gap.columns("gap"),
    }
    if arm.order == "SFT then RL" and arm.beta > 0 and arm.reference_is_first:
        start = estimates.log_partition(answers.reward, arm.beta)
        size = estimates.predicted_change(start, paid, arm.beta)
        return row | size.columns("predicted") | {"without_success": start.without_success}
    if arm.order == "SFT then RL":  # no Gibbs optimum to go to: the first-order sign only
        return row | {"predicted_sign": np.sign(gap.value)}
    return row | {"predicted_sign": -np.sign(gap.value)}


def _names(arm: Arm) -> dict[str, Any]:
    spec = arm.whole
    return {
        "order": arm.order,
        "model": spec.model,
        "target": target_name(spec),
        "penalty": arm.penalty,
        "beta": arm.beta,
        "label": spec.label,
        "dataset": spec.dataset,
        "seed": spec.seed,
    }


def _answers(
    study: Study, policy: Policy, probe: Sequence[Problem], spec: RunSpec, grader: GraderPool
) -> Answers:
    return sample(policy, probe, spec.training, grader, n=study.samples, seed=spec.seed)


# -- after it --------------------------------------------------------------------------------------


def observe(study: Study, arm: Arm, grader: GraderPool) -> dict[str, Any]:
    """Changes of L and J over the second phase, the KLs, and what the identities make of them."""
    spec, beta = arm.whole, arm.beta
    probe = study.probe(dataset(spec))
    before, after = study.policy(arm.first), study.policy(spec)
    reference = before if arm.reference_is_first else load_policy(study.base_path(spec))
    ours = _answers(study, after, probe, spec, grader)
    theirs = _answers(study, before, probe, spec, grader)
    loss = demonstration_losses(after, probe) - demonstration_losses(before, probe)
    reward = ours.reward.mean(axis=1) - theirs.reward.mean(axis=1)
    moved, moved_k3 = estimates.mean_kl(ours.log_own, log_of(before, ours.rows))
    ceiling, vacuous = estimates.pinsker_ceiling(moved.value)
    row = {
        **_names(arm),
        **estimates.over_prompts(loss).columns("loss_change"),
        **estimates.over_prompts(reward).columns("reward_change"),
        "lenient_change": ours.lenient.mean() - theirs.lenient.mean(),
        **moved.columns("kl_moved"),
        "kl_moved_k3": moved_k3,
        "reward_ceiling": ceiling,
        "ceiling_is_vacuous": vacuous,
    }
    if arm.order == "SFT then RL" and beta > 0:
        start = estimates.log_partition(
            _answers(study, reference, probe, spec, grader).reward, beta
        )
        residual = estimates.optimality_residual(
            ours.log_own, log_of(reference, ours.rows), ours.reward, start, beta
        )
        row |= residual.columns("residual")
    if arm.order == "RL then SFT" and beta > 0:
        base = load_policy(study.base_path(spec))
        rl_moved, _ = estimates.mean_kl(theirs.log_own, log_of(base, theirs.rows))
        tuned_moved, _ = estimates.mean_kl(ours.log_own, log_of(base, ours.rows))
        row |= {
            **rl_moved.columns("kl_rl_reference"),
            **tuned_moved.columns("kl_sft_reference"),
            "drop_by_i2": estimates.reward_drop(
                moved.value, rl_moved.value, tuned_moved.value, beta
            ),
        }
    return row


def run(study: Study, *, jobs: int, figures: Path) -> None:
    """All five steps."""
    found = arms(study.plan)
    folder = study.folder
    folder.mkdir(parents=True, exist_ok=True)
    prepare(study)
    with GraderPool() as grader:
        paid = check(study, found, grader)
        print("J(D):", ", ".join(f"{name} {value:.3f}" for name, value in paid.items()))
        firsts = {(s.label, s.dataset, s.model, s.seed): s for s in (arm.first for arm in found)}
        train_all(study, list(firsts.values()), jobs)
        path = folder / "predictions.csv"
        if not path.is_file():
            predict(study, found, grader).to_csv(path, index=False, float_format="%.6g")
            print(f"predictions: {path}")
        predictions = pd.read_csv(path)
        hashes = predictions[["run_hash", "first_hash"]].itertuples(index=False, name=None)
        check_predictions(found, hashes)
        train_all(study, [arm.whole for arm in found], jobs)
        for arm in found:
            whole, alone = (
                read_jsonl(spec.folder(study.results).dynamics) for spec in (arm.whole, arm.first)
            )
            check_change_of_phase(arm, whole, alone)
        observed = pd.DataFrame([observe(study, arm, grader) for arm in found])
    keys = list(_names(found[0]))
    changes = predictions.merge(observed, on=keys, how="right", validate="one_to_one")
    signs = sign_table(changes)
    for name, frame in (
        ("changes", changes),
        ("signs", signs),
        ("courses", courses(study.results, found)),
    ):
        frame.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    draw_generation(folder, figures)
    print(signs.to_string(index=False, float_format="{:.3f}".format))
    print(f"tables: {folder}\nfigures: {figures}")


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description="The coupling study with real generation.")
    parser.add_argument("--suite", default="coupling")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--prompts", type=int, default=48, help="held-out prompts of the probes")
    parser.add_argument("--samples", type=int, default=16, help="answers per prompt and policy")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    options = parser.parse_args()
    try:
        plan = load_plan(options.suite, root=Path())
        study = Study(plan, options.results, options.prompts, options.samples)
        run(study, jobs=options.jobs, figures=Path("figures") / plan.name)
    except (ConfigError, CouplingError) as error:
        sys.exit(f"coupling: {error}")


if __name__ == "__main__":
    main()
