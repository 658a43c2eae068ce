"""What predicting and observing share: a study's probes, its policies and their answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bridge.grading import GradeItem
from bridge.grading.pool import GraderPool
from bridge.models.checkpoint import Policy
from bridge.plan.grid import Plan, RunSpec
from bridge.run.building import base_of
from bridge.store.records import read_json, suite_folder
from bridge.tasks.base import Dataset, Problem
from bridge.tasks.registry import load_family
from studies.coupling.arms import Arm, CouplingError, Sizes, sizes_of, target_name
from studies.coupling.measuring import Answers, policy_path, sample
from studies.coupling.tabular import Array


@dataclass(frozen=True)
class Study:
    """One suite with its results and a grader."""

    plan: Plan
    results: Path
    grader: GraderPool
    _answers: dict[tuple[Path, str, int], Answers] = field(default_factory=dict)

    @property
    def sizes(self) -> Sizes:
        """Sizes of the probes."""
        return sizes_of(self.plan.name)

    @property
    def folder(self) -> Path:
        """Where the study's tables go."""
        return suite_folder(self.results, self.plan.name) / "coupling"

    def probe(self, spec: RunSpec) -> list[Problem]:
        """Held-out prompts, each with a demonstration."""
        held_out = dataset(spec).validation
        return [p for p in held_out if p.demonstration is not None][: self.sizes.prompts]

    def base_path(self, spec: RunSpec) -> Path:
        """Folder of the run's base model."""
        return base_of(spec, self.results)

    def path(self, spec: RunSpec) -> Path:
        """Folder of the final policy of a finished run.

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
        return policy_path(done, folder.path)

    def answers(self, path: Path, policy: Policy, spec: RunSpec) -> Answers:
        """The policy's answers to the run's probe; drawn once per policy, data set and seed."""
        key = (path, spec.dataset, spec.seed)
        if key not in self._answers:
            self._answers[key] = sample(
                policy,
                self.probe(spec),
                spec.training,
                self.grader,
                n=self.sizes.samples,
                seed=spec.seed,
            )
        return self._answers[key]

    def demonstration_rewards(self, spec: RunSpec) -> Array:
        """[problems]: what the strict verifier pays for each demonstration of the probe."""
        items = [GradeItem(text=p.demonstration or "", gold=p.answer) for p in self.probe(spec)]
        right, wrong = spec.training.reward_correct, spec.training.reward_wrong
        graded = self.grader.grade(items)
        return np.array([right if g.verdict == "correct" else wrong for g in graded])


def dataset(spec: RunSpec) -> Dataset:
    """Problems of a run."""
    family = load_family(spec.family)
    return family.dataset(family.Options.model_validate(spec.dataset_options))


def row_names(arm: Arm) -> dict[str, Any]:
    """The columns that name an arm's run, the same in every table."""
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
