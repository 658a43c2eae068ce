"""Before a second phase: what is refused, and what its change of L or J will be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from bridge.models.checkpoint import load_policy
from bridge.store.records import read_json
from studies.coupling import estimates
from studies.coupling.arms import (
    Arm,
    CouplingError,
    check_demonstrations,
    check_probes,
    target_name,
)
from studies.coupling.measuring import check_phases_agree, demonstration_losses
from studies.coupling.study import Study, dataset, row_names


def check(study: Study, found: Sequence[Arm]) -> pd.DataFrame:
    """Refuse what would make the comparison meaningless; J(D) by model and data set.

    The base model's own numbers stand beside it: the level from which every arm starts.

    Raises:
        CouplingError: with the reason.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for arm in found:
        spec = arm.whole
        if (spec.model, spec.dataset) in rows:
            continue
        probe = study.probe(spec)
        train = [p.question for p in dataset(spec).train]
        check_probes(spec.dataset, train, [p.question for p in probe])
        paid = float(study.demonstration_rewards(spec).mean())
        check_demonstrations(spec, paid)
        path = study.base_path(spec)
        base = load_policy(path)
        check_phases_agree(f"{spec.label}/{spec.dataset}", base, probe, spec.training)
        answers = study.answers(path, base, spec)
        rows[spec.model, spec.dataset] = {
            "model": spec.model,
            "dataset": spec.dataset,
            "target": target_name(spec),
            "prompts": len(probe),
            "expert_reward": paid,
            "base_reward": answers.reward.mean(),
            "base_lenient": answers.lenient.mean(),
            "base_loss": demonstration_losses(base, probe).mean(),
        }
    return pd.DataFrame(rows.values())


def predict(study: Study, found: Sequence[Arm]) -> pd.DataFrame:
    """Signs and sizes from the policies at the change of phase, and nothing later.

    Raises:
        CouplingError: a second phase has begun, so nothing can be predicted any more.
    """
    for arm in found:
        folder = arm.whole.folder(study.results)
        # What another configuration left in the folder is no second phase of this run.
        if (
            folder.dynamics.is_file()
            and read_json(folder.spec).get("train_hash") == arm.whole.train_hash
        ):
            raise CouplingError(
                f"{folder.path} has begun before the predictions were written; move it away and "
                "run the study again."
            )
    return pd.DataFrame([_prediction(study, arm) for arm in found])


def _prediction(study: Study, arm: Arm) -> dict[str, Any]:
    spec = arm.whole
    path = study.path(arm.first)
    answers = study.answers(path, load_policy(path), spec)
    paid = study.demonstration_rewards(spec)
    gap = estimates.over_prompts(answers.reward.mean(axis=1) - paid)
    row: dict[str, Any] = {
        **row_names(arm),
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
