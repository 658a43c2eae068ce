"""Tables of the coupling study with real generation, from its per-run rows and run folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bridge.analysis.statistics import t_limits
from bridge.records import read_jsonl
from bridge.studies.coupling_arms import Arm, target_name

CELL = ["order", "model", "target", "penalty", "beta"]
CONTROLS = {"SFT then RL": "SFT then SFT", "RL then SFT": "RL then RL"}


def sign_table(changes: pd.DataFrame) -> pd.DataFrame:
    """Per cell over seeds: predicted and observed sign, interval, and the control beside it.

    SFT then RL is about L, RL then SFT about J. ``supported`` asks for the interval over seeds to
    exclude 0 in the predicted direction, ``beats_control`` for the observed change to be further
    in that direction than that of as many more steps of the first phase, seed by seed on average.
    """
    rows = []
    for key, cell in changes.groupby(CELL, sort=False):
        order = str(key[0]) if isinstance(key, tuple) else str(key)
        if order not in CONTROLS:
            continue
        quantity = "loss_change" if order == "SFT then RL" else "reward_change"
        sign = _predicted_sign(cell)
        observed = cell[quantity].to_numpy(float)
        low, high = _limits(observed)
        control = _control(changes, cell, order, quantity)
        further = sign * (observed.mean() - control)
        rows.append(
            {
                **dict(zip(CELL, key, strict=True)),
                "seeds": len(cell),
                "quantity": "L" if order == "SFT then RL" else "J",
                "gap": cell["gap"].mean(),
                "predicted_sign": sign,
                "predicted": _mean(cell, "predicted"),
                "observed": observed.mean(),
                "low": low,
                "high": high,
                "right": float((np.sign(observed) == sign).mean()),
                "supported": bool(sign * low > 0 and sign * high > 0),
                "control": control,
                "beats_control": bool(further > 0),
                "residual": _mean(cell, "residual"),
            }
        )
    return pd.DataFrame(rows)


def _predicted_sign(cell: pd.DataFrame) -> float:
    """Sign of the mean prediction over seeds: of its size where there is one."""
    size = _mean(cell, "predicted")
    if not np.isnan(size):
        return float(np.sign(size))
    gap = float(cell["gap"].mean())
    return float(np.sign(gap) * (1 if cell["order"].iloc[0] == "SFT then RL" else -1))


def _mean(cell: pd.DataFrame, column: str) -> float:
    return float(cell[column].mean()) if column in cell else float("nan")


def _limits(values: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float]:
    """95 % t interval over seeds; without a second seed there is none."""
    if len(values) < 2:
        return float("-inf"), float("inf")
    low, high = t_limits(values[:, None])
    return float(low[0]), float(high[0])


def _control(changes: pd.DataFrame, cell: pd.DataFrame, order: str, quantity: str) -> float:
    """Mean change of the same quantity with more of the first phase; not a number without it."""
    same = changes[
        (changes["order"] == CONTROLS[order])
        & changes["model"].isin(cell["model"])
        & changes["dataset"].isin(cell["dataset"])
        & changes["seed"].isin(cell["seed"])
    ]
    if order == "RL then SFT":
        same = same[same["beta"].isin(cell["beta"]) & same["penalty"].isin(cell["penalty"])]
    return float(same[quantity].mean())


def courses(results: Path, found: Sequence[Arm]) -> pd.DataFrame:
    """Both objectives of every probe of every run of two phases.

    ``loss`` is the logged loss of held-out demonstrations in nats per token, ``reward`` the
    greedy accuracy on held-out prompts under the strict verifier.
    ``progress`` runs from 0 to 1 in the first phase and on to 2 in the second.
    """
    rows = []
    for arm in found:
        spec = arm.whole
        first = arm.options.steps
        lines = read_jsonl(spec.folder(results).dynamics)
        second = lines[-1]["step"] - first
        for line in lines:
            if line.get("heldout_accuracy") is None:
                continue
            step = line["step"]
            rows.append(
                {
                    "order": arm.order,
                    "model": spec.model,
                    "target": target_name(spec),
                    "parameters": arm.penalty,
                    "beta": arm.beta,
                    "seed": spec.seed,
                    "step": step,
                    "progress": step / first if step <= first else 1 + (step - first) / second,
                    "loss": line["demo_loss_heldout"],
                    "loss_train": line["demo_loss_train"],
                    "reward": line["heldout_accuracy"],
                    "reward_train": line["train_accuracy"],
                }
            )
    return pd.DataFrame(rows)
