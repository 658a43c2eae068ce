"""After a second phase: the changes of L and J, the KLs, and what the identities make of them."""

from __future__ import annotations

from typing import Any

from bridge.models.checkpoint import load_policy
from bridge.store.records import read_jsonl
from studies.coupling import estimates
from studies.coupling.arms import Arm, check_change_of_phase
from studies.coupling.measuring import demonstration_losses, label_correlation, log_of
from studies.coupling.study import Study, row_names


def observe(study: Study, arm: Arm) -> dict[str, Any]:
    """One arm's row.

    Raises:
        CouplingError: the second phase did not start where the first-phase run ended, or a run did
            not end well.
    """
    whole, alone = (
        read_jsonl(spec.folder(study.results).dynamics) for spec in (arm.whole, arm.first)
    )
    check_change_of_phase(arm, whole, alone)
    spec, beta = arm.whole, arm.beta
    probe = study.probe(spec)
    paths = {"before": study.path(arm.first), "after": study.path(spec)}
    paths["base"] = study.base_path(spec)
    before, after = load_policy(paths["before"]), load_policy(paths["after"])
    theirs = study.answers(paths["before"], before, spec)
    ours = study.answers(paths["after"], after, spec)
    loss = demonstration_losses(after, probe) - demonstration_losses(before, probe)
    reward = ours.reward.mean(axis=1) - theirs.reward.mean(axis=1)
    moved, moved_k3 = estimates.mean_kl(ours.log_own, log_of(before, ours.rows))
    ceiling, vacuous = estimates.pinsker_ceiling(moved.value)
    row = {
        **row_names(arm),
        **estimates.over_prompts(loss).columns("loss_change"),
        **estimates.over_prompts(reward).columns("reward_change"),
        "lenient_change": ours.lenient.mean() - theirs.lenient.mean(),
        **moved.columns("kl_moved"),
        "kl_moved_k3": moved_k3,
        "reward_ceiling": ceiling,
        "ceiling_is_vacuous": vacuous,
    }
    if {p.answer for p in probe} == {"0", "1"}:
        row["mcc_before"], row["mcc_after"] = map(label_correlation, (theirs, ours))
    if arm.order == "SFT then RL" and beta > 0:
        name = "before" if arm.reference_is_first else "base"
        reference = before if arm.reference_is_first else load_policy(paths["base"])
        start = estimates.log_partition(study.answers(paths[name], reference, spec).reward, beta)
        residual = estimates.optimality_residual(
            ours.log_own, log_of(reference, ours.rows), ours.reward, start, beta
        )
        row |= residual.columns("residual")
    if arm.order == "RL then SFT" and beta > 0:
        base = load_policy(paths["base"])
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
