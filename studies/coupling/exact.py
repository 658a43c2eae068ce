"""The coupling study in exact mode: identities, closed forms, both orders, exact gradients.

    python -m studies.coupling.exact

checks everything, prints the tables, writes small CSV files to ``results/cached/coupling_exact``
and draws the figures from them. About twenty seconds on one core. What came out, and what it says
about the paper (arXiv 2601.07389), is in ``docs/studies/coupling.md``.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd

from bridge.analysis.numbers.statistics import wilson
from studies.coupling.closed_forms import table
from studies.coupling.estimates import line_fit
from studies.coupling.exact_training import (
    Parameters,
    Target,
    Task,
    feature_kernel,
    first_order_coupling,
    label_tasks,
    train,
)
from studies.coupling.figures_exact import draw_exact
from studies.coupling.identities import check_identities, random_problems
from studies.coupling.tabular import (
    Array,
    TabularProblem,
    coupling_constant,
    crossing,
    expert_reward,
    gibbs,
    kl,
    mean_reward,
    regularised_reward,
    rl_path,
    sft_loss,
    sft_path,
)

BETAS = (0.01, 0.04, 0.1, 0.5, 1.0)
TARGETS: tuple[tuple[str, Target, float], ...] = (
    ("verifier format", "verifier format", 0.0),
    ("verifier format, 10 % noise", "verifier format", 0.1),
    ("verifier format, 30 % noise", "verifier format", 0.3),
    ("bare label", "bare label", 0.0),
)
PARAMETERS: tuple[Parameters, ...] = ("free logits", "shared map")
PROMPTS, FEATURES = 12, 4
SFT_STEPS, RL_STEPS = 40, 250
COURSE_BETA = 0.1
"""Where curves of training are kept."""
DRAWN_TASKS = 6
"""Tasks of each cell that are drawn one by one."""


def phase_change(
    tasks: Task, parameters: Parameters, beta: float, *, sft_steps: int, rl_steps: int
) -> tuple[pd.DataFrame, dict[str, Array]]:
    """Train both orders on all tasks; one row per task and order, and the curves.

    ``predicted`` for SFT then RL is I1 at the Gibbs optimum (a size and a sign), ``gap`` is
    J(policy) - J(D) at the change of phase. For RL then SFT only the sign is predicted, by the
    gap; I4 gives a size on the natural path alone. Both are known before the second phase.
    """
    base = tasks.problem.log_start
    sft = train(tasks, base, parameters=parameters, objective="sft", steps=sft_steps)
    second = replace(tasks, problem=tasks.problem.started_at(sft.log_p))
    rl_after = train(
        second, sft.log_p, parameters=parameters, objective="rl", steps=rl_steps, beta=beta
    )
    rl = train(tasks, base, parameters=parameters, objective="rl", steps=rl_steps, beta=beta)
    sft_after = train(tasks, rl.log_p, parameters=parameters, objective="sft", steps=sft_steps)
    paid = expert_reward(tasks.problem)
    rows = [
        {
            "order": "SFT then RL",
            "gap": sft.reward[-1] - paid,
            "predicted": coupling_constant(second.problem, beta),
            "observed": rl_after.loss[-1] - rl_after.loss[0],
            "residual": kl(second.problem, rl_after.log_p, gibbs(second.problem, beta)),
        },
        {
            "order": "RL then SFT",
            "gap": rl.reward[-1] - paid,
            "predicted": paid - rl.reward[-1],
            "observed": sft_after.reward[-1] - sft_after.reward[0],
            "residual": kl(tasks.problem, rl.log_p, gibbs(tasks.problem, beta)),
        },
    ]
    frame = pd.concat([pd.DataFrame(row).rename_axis("task").reset_index() for row in rows])
    curves = {
        "SFT then RL": np.stack(
            [
                np.concatenate([sft.loss, rl_after.loss[1:]]),
                np.concatenate([sft.reward, rl_after.reward[1:]]),
            ]
        ),
        "RL then SFT": np.stack(
            [
                np.concatenate([rl.loss, sft_after.loss[1:]]),
                np.concatenate([rl.reward, sft_after.reward[1:]]),
            ]
        ),
    }
    return frame, curves


def all_changes(seed: int, n: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of :func:`phase_change` over beta, target and parameterisation; mean curves of some."""
    rows, courses = [], []
    for name, target, eps in TARGETS:
        # The same prompts, base policies and gold labels in every cell: cells are paired.
        rng = np.random.default_rng(seed)
        tasks = label_tasks(rng, n, prompts=PROMPTS, features=FEATURES, target=target, eps=eps)
        for parameters in PARAMETERS:
            for beta in BETAS:
                frame, curves = phase_change(
                    tasks, parameters, beta, sft_steps=SFT_STEPS, rl_steps=RL_STEPS
                )
                cell = {"target": name, "parameters": parameters, "beta": beta}
                rows.append(frame.assign(target=name, parameters=parameters, beta=beta))
                if beta == COURSE_BETA:
                    courses += [_course(cell, order, *c) for order, c in curves.items()]
    return pd.concat(rows, ignore_index=True), pd.concat(courses, ignore_index=True)


def _course(cell: dict[str, object], order: str, loss: Array, reward: Array) -> pd.DataFrame:
    """Means over tasks against progress: 0 to 1 in the first phase, 1 to 2 in the second."""
    first, second = (SFT_STEPS, RL_STEPS) if order == "SFT then RL" else (RL_STEPS, SFT_STEPS)
    progress = np.concatenate([np.linspace(0, 1, first + 1), np.linspace(1, 2, second + 1)[1:]])
    sft = np.arange(len(progress)) <= first if order == "SFT then RL" else progress >= 1
    kept = sft | (np.arange(len(progress)) % 10 == 0)  # RL has many steps
    return pd.DataFrame(
        {
            **cell,
            "order": order,
            "progress": progress[kept],
            "loss": loss.mean(axis=1)[kept],
            "reward": reward.mean(axis=1)[kept],
        }
    )


def natural_paths(seed: int, *, beta: float, s: float) -> pd.DataFrame:
    """One task along its natural-gradient paths, both orders, with the crossing J(p_t) = J(D)."""
    rows = []
    for name, target, eps in TARGETS:
        rng = np.random.default_rng(seed)
        tasks = label_tasks(rng, 1, prompts=PROMPTS, features=FEATURES, target=target, eps=eps)
        problem = TabularProblem(*(table[0] for table in vars(tasks.problem).values()))
        shares = np.linspace(0, 1, 41)
        tuned = sft_path(problem, problem.log_start, s)
        after_sft = problem.started_at(tuned)
        best = gibbs(problem, beta)
        # The point where the loss is lowest is on the path even if no grid point is.
        met = {
            order: crossing(start, 1 / beta)
            for order, start in (("SFT then RL", after_sft), ("RL then SFT", problem))
        }
        legs = {
            ("SFT then RL", 0): [(u, sft_path(problem, problem.log_start, s * u)) for u in shares],
            ("SFT then RL", 1): _rl_leg(after_sft, shares, met["SFT then RL"], beta),
            ("RL then SFT", 0): _rl_leg(problem, shares, met["RL then SFT"], beta),
            ("RL then SFT", 1): [(u, sft_path(problem, best, s * u)) for u in shares],
        }
        for (order, leg), points in legs.items():
            crossed = met[order] if (leg == 1) == (order == "SFT then RL") else None
            rows += [
                {
                    "order": order,
                    "target": name,
                    "parameters": "free logits",
                    "progress": leg + u,
                    "loss": float(sft_loss(problem, log_p)),
                    "reward": float(mean_reward(problem, log_p)),
                    "crossing": crossed is not None and u == crossed * beta,
                }
                for u, log_p in points
            ]
    return pd.DataFrame(rows)


def _rl_leg(
    problem: TabularProblem, shares: Array, met: float | None, beta: float
) -> list[tuple[float, Array]]:
    extra = [] if met is None else [met * beta]
    return [(u, rl_path(problem, u / beta)) for u in sorted([*map(float, shares), *extra])]


def sign_table(changes: pd.DataFrame) -> pd.DataFrame:
    """Per cell: how often each prediction had the sign of what was observed (Wilson interval)."""
    rows = []
    for (order, target, parameters, beta), cell in changes.groupby(
        ["order", "target", "parameters", "beta"], sort=False
    ):
        gap_sign = np.sign(cell["gap"]) * (1 if order == "SFT then RL" else -1)
        observed = np.sign(cell["observed"])
        by_gap = wilson(int((gap_sign == observed).sum()), len(cell))
        by_size = wilson(int((np.sign(cell["predicted"]) == observed).sum()), len(cell))
        rows.append(
            {
                "order": order,
                "target": target,
                "parameters": parameters,
                "beta": beta,
                "tasks": len(cell),
                "predicted_up": float((cell["predicted"] > 0).mean()),
                "observed_up": float((cell["observed"] > 0).mean()),
                "predicted": cell["predicted"].mean(),
                "observed": cell["observed"].mean(),
                "residual": cell["residual"].mean(),
                "right": by_size.mean,
                "right_low": by_size.low,
                "right_high": by_size.high,
                "right_by_gap": by_gap.mean,
            }
        )
    return pd.DataFrame(rows)


def size_table(changes: pd.DataFrame) -> pd.DataFrame:
    """Least-squares line of observed on predicted change of L, per parameterisation and beta.

    ``r2`` is 1 - residual / total sum of squares of that line; all targets and tasks together.
    """
    rows = []
    after_rl = changes[changes["order"] == "SFT then RL"]
    for (parameters, beta), cell in after_rl.groupby(["parameters", "beta"], sort=False):
        x, y = cell["predicted"].to_numpy(float), cell["observed"].to_numpy(float)
        rows.append(
            {
                "parameters": parameters,
                "beta": beta,
                **line_fit(x, y),
                "residual": cell["residual"].mean(),
            }
        )
    return pd.DataFrame(rows)


def local_signs(seed: int, n: int) -> pd.DataFrame:
    """How often sign(J(p) - J(D)) is the sign of the first-order coupling on random problems."""
    rows = []
    for prompts, answers, features in (
        (1, 2, 0),
        (1, 4, 0),
        (1, 5, 0),
        (12, 2, 0),
        (12, 4, 0),
        (12, 4, 12),
        (12, 4, 4),
        (12, 4, 1),
    ):
        rng = np.random.default_rng([seed, prompts, answers, features])
        problem = random_problems(rng, n, prompts=prompts, answers=answers)
        kernel = None
        if features:
            phi = rng.normal(size=(n, prompts, features))
            phi /= np.linalg.norm(phi, axis=-1, keepdims=True)
            kernel = feature_kernel(phi)
        gap, rate = first_order_coupling(problem, problem.log_start, kernel)
        right = wilson(int((np.sign(gap) == np.sign(rate)).sum()), n)
        rows.append(
            {
                "prompts": prompts,
                "answers": answers,
                "parameters": f"shared map, {features} features" if features else "free logits",
                "problems": n,
                "right": right.mean,
                "right_low": right.low,
                "right_high": right.high,
            }
        )
    return pd.DataFrame(rows)


def theorem_counterexample() -> dict[str, float]:
    """Two answers, no reward: SFT moves the policy by KL 0.13 and J_beta falls, J does not."""
    problem = TabularProblem(
        weights=np.ones(1),
        log_start=np.log(np.array([[0.5, 0.5]])),
        expert=np.array([[0.75, 0.25]]),
        reward=np.zeros((1, 2)),
    )
    beta = 0.1
    best, tuned = gibbs(problem, beta), np.log(problem.expert)
    return {
        "KL(p_SFT, p_RL)": float(kl(problem, tuned, best)),
        "change of J": float(mean_reward(problem, tuned) - mean_reward(problem, best)),
        "change of J_beta, beta 0.1": float(
            regularised_reward(problem, tuned, beta) - regularised_reward(problem, best, beta)
        ),
    }


def run(tables: Path, figures: Path, *, seed: int, n: int, n_local: int) -> None:
    """Check, print, write and draw everything.

    Raises:
        ArithmeticError: an identity does not hold.
    """
    errors, checked = check_identities(seed)
    _show(f"Largest errors of the identities on {checked} random problems", [errors], "{:.1e}")
    _show("Counterexample to theorem 4.1", [theorem_counterexample()], "{:.6f}")
    cases = pd.DataFrame(asdict(case) for case in table())
    _show("Closed forms, nats per sequence", cases, "{:.3f}")
    changes, courses = all_changes(seed, n)
    signs = sign_table(changes)
    local = local_signs(seed, n_local)
    _show("First-order sign, random problems", local, "{:.3f}")
    sizes = size_table(changes)
    _show("Observed on predicted change of L after RL", sizes, "{:.3f}")
    _show("Signs after training by exact gradients", signs, "{:.3f}")
    drawn = changes[(changes["order"] == "SFT then RL") & (changes["task"] < DRAWN_TASKS)]
    for name, frame in (
        ("closed_forms", cases),
        ("local_signs", local),
        ("signs", signs),
        ("sizes", sizes),
        ("changes", drawn),
        ("courses", courses),
        ("paths", natural_paths(seed, beta=0.25, s=0.6)),
    ):
        tables.mkdir(parents=True, exist_ok=True)
        frame.to_csv(tables / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")
    draw_exact(tables, figures)
    print(f"\nTables: {tables}\nFigures: {figures}")


def _show(title: str, rows: list[dict[str, float]] | pd.DataFrame, number: str) -> None:
    frame = pd.DataFrame(rows)
    print(f"\n{title}\n{frame.to_string(index=False, float_format=number.format)}")


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description="The coupling study in exact mode.")
    parser.add_argument("--tables", type=Path, default=Path("results/cached/coupling_exact"))
    parser.add_argument("--figures", type=Path, default=Path("figures/coupling_exact"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tasks", type=int, default=50, help="label tasks per cell")
    parser.add_argument("--problems", type=int, default=20_000, help="of the first-order signs")
    options = parser.parse_args()
    run(
        options.tables,
        options.figures,
        seed=options.seed,
        n=options.tasks,
        n_local=options.problems,
    )


if __name__ == "__main__":
    main()
