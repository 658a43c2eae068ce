"""Tables of the coupling study with real generation, from its per-run rows and run folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bridge.analysis.numbers.statistics import t_limits
from bridge.store.records import read_jsonl
from studies.coupling.arms import Arm, CouplingError, target_name
from studies.coupling.estimates import line_fit

CELL = ["order", "model", "target", "first_steps", "penalty", "reference", "beta"]
CONTROLS = {"SFT then RL": "SFT then SFT", "RL then SFT": "RL then RL"}


def with_arms(frame: pd.DataFrame, found: Sequence[Arm]) -> pd.DataFrame:
    """Rows of runs with what their names do not say: the first phase's length, the reference."""
    named = pd.DataFrame(
        [
            {
                "model": arm.whole.model,
                "dataset": arm.whole.dataset,
                "label": arm.whole.label,
                "seed": arm.whole.seed,
                "first_steps": arm.options.steps,
                "reference": arm.options.reference,
            }
            for arm in found
        ]
    )
    keys = ["model", "dataset", "label", "seed"]
    return frame.merge(named, on=keys, how="left", validate="one_to_one")


def sign_table(changes: pd.DataFrame) -> pd.DataFrame:
    """Per cell over seeds: predicted and observed sign, interval, and the control beside it.

    SFT then RL is about L, RL then SFT about J. ``supported`` asks for the interval over seeds to
    exclude 0 in the predicted direction, ``beats_control`` for that of the difference, seed by
    seed, to as many more steps of the first phase.
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
        control = _controls(changes, cell, order, quantity)
        further = _limits(observed - control)
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
                "supported": _on_side(sign, low, high),
                # Some seeds may lack their control; the difference is over those that have it.
                "control": np.nanmean(control) if np.isfinite(control).any() else np.nan,
                "controls": int(np.isfinite(control).sum()),
                "beats_control": _on_side(sign, *further),
                "residual": _mean(cell, "residual"),
                "lenient_change": cell["lenient_change"].mean(),
                "kl_moved": cell["kl_moved"].mean(),
                "reward_ceiling": cell["reward_ceiling"].mean(),
                "ceiling_is_vacuous": bool(cell["ceiling_is_vacuous"].any()),
                "drop_by_i2": _mean(cell, "drop_by_i2"),
            }
        )
    return pd.DataFrame(rows)


def _on_side(sign: float, low: float, high: float) -> bool:
    """Whether an interval excludes 0 in a direction; one without numbers does not."""
    return bool(sign * low > 0 and sign * high > 0)


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


def _controls(
    changes: pd.DataFrame, cell: pd.DataFrame, order: str, quantity: str
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[seeds of the cell]: the same quantity with more of the same first phase, or no number."""
    more = changes[changes["order"] == CONTROLS[order]]
    controls = more.groupby("first_hash")[quantity].mean()
    return cell["first_hash"].map(controls).to_numpy(float)


def size_table(changes: pd.DataFrame) -> pd.DataFrame:
    """Observed on predicted change of L (I1) per penalty: over all betas, and at each beta.

    A point is one run, so a line mixes formats of demonstrations and seeds. ``beta`` is missing in
    the row over all betas.
    """
    frame = changes[changes["order"] == "SFT then RL"]
    if "predicted" not in frame:
        return pd.DataFrame()
    frame = frame.dropna(subset=["predicted", "loss_change"])
    rows = []
    for (model, penalty), cell in frame.groupby(["model", "penalty"], sort=False):
        parts = [(float("nan"), cell), *cell.groupby("beta")]
        for beta, part in parts:
            rows.append(
                {
                    "model": model,
                    "penalty": penalty,
                    "beta": beta,
                    "runs": len(part),
                    **line_fit(
                        part["predicted"].to_numpy(float), part["loss_change"].to_numpy(float)
                    ),
                    "residual": part["residual"].mean(),
                    "without_success": part["without_success"].mean(),
                }
            )
    return pd.DataFrame(rows)


COURSE = {
    "loss": "demo_loss_heldout_nats",
    "loss_train": "demo_loss_train_nats",
    "reward": "heldout_reward",
    "reward_train": "train_reward",
    "lenient": "heldout_lenient",
    "format": "heldout_format",
    "mcc": "heldout_mcc",
    "length": "heldout_length",
    "cosine": "probe_cosine",
    "rl_norm": "probe_rl_norm",
    "sft_norm": "probe_sft_norm",
}
"""Columns of ``courses`` and the names that the probes log them under."""


def courses(results: Path, found: Sequence[Arm]) -> pd.DataFrame:
    """Both objectives at every probe of every run of two phases, train and held-out.

    Losses are nats per sequence, rewards means over sampled answers. ``progress`` runs from 0 to 1
    in the first phase and on to 2 in the second.

    Raises:
        CouplingError: a run whose probes drew no answers.
    """
    rows = []
    for arm in found:
        spec = arm.whole
        if not spec.training.probe_samples:
            raise CouplingError(
                f"{spec.label}: training.probe_samples is 0, so J was not measured on the way; set "
                "it to 2 or more."
            )
        first = arm.options.steps
        lines = read_jsonl(spec.folder(results).dynamics)
        second = lines[-1]["step"] - first
        for line in lines:
            if "heldout_reward" not in line:
                continue
            step = line["step"]
            rows.append(
                {
                    "order": arm.order,
                    "model": spec.model,
                    "target": target_name(spec),
                    "parameters": arm.penalty,
                    "beta": arm.beta,
                    "first_steps": first,
                    "reference": arm.options.reference,
                    "seed": spec.seed,
                    "step": step,
                    "progress": step / first if step <= first else 1 + (step - first) / second,
                    **{column: line.get(name) for column, name in COURSE.items()},
                }
            )
    return pd.DataFrame(rows)
