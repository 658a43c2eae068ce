"""What SFT and RL did to the weights, beside two updates that mean nothing.

SFT is compared with the base model, RL with the SFT checkpoint it began with. Looked at are the
query, key and value projections and the MLP's down projection, as in the released code of the
paper; a quarter of a matrix's smaller side stands for its leading subspace.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from bridge.analysis.numbers.spectra import (
    Change,
    change,
    gaussian_like,
    turned_at_random,
)
from bridge.plan.grid import Plan
from bridge.store.records import base_folder, read_json
from bridge.store.seeds import derive_seed
from studies.healing.sweep import Stage, row_of

Array = NDArray[np.float64]
_LOOKED_AT = re.compile(r"layers\.\d+\.(?:self_attn\.[qkv]_proj|mlp\.down_proj)\.weight$")
_KEPT_SHARE = 4


@dataclass(frozen=True)
class Turned:
    """Means over the matrices of one run's change."""

    relative_norm: float
    angle_deg: float
    """Mean of left and right principal angles."""
    angle_gaussian_deg: float
    """The same after a Gaussian update of equal norm."""
    angle_turned_deg: float
    """The same after the update's own spectrum between random vectors."""
    values: float
    values_gaussian: float
    stretched: float
    turned: float


def read_weights(folder: Path) -> dict[str, Array]:
    """The matrices that are looked at, by name."""
    found: dict[str, Array] = {}
    for path in sorted(folder.glob("*.safetensors")):
        own = load_file(path)
        found |= {n: w.astype(np.float64) for n, w in own.items() if _LOOKED_AT.search(n)}
    if not found:
        raise FileNotFoundError(
            f"{folder} holds no attention or MLP weights; the study needs the policies of the "
            "runs, so run the suite without deleting them."
        )
    return found


def compare(before: dict[str, Array], after: dict[str, Array], seed: int) -> Turned:
    """Change of all matrices, and of the same matrices under its two nulls."""
    rng = np.random.default_rng(derive_seed("healing", "null", seed))
    nulls: Sequence[Callable[[Array], Array]] = (
        lambda update: update,
        lambda update: gaussian_like(update, rng),
        lambda update: turned_at_random(update, rng),
    )
    changes: list[list[Change]] = [[], [], []]
    for name, old in sorted(before.items()):
        update = after[name] - old
        for own, made in zip(changes, nulls, strict=True):
            own.append(change(old, old + made(update), k=max(1, min(old.shape) // _KEPT_SHARE)))
    real, gaussian, spectrum = changes
    return Turned(
        relative_norm=_mean(c.relative_norm for c in real),
        angle_deg=_mean(_angle(c) for c in real),
        angle_gaussian_deg=_mean(_angle(c) for c in gaussian),
        angle_turned_deg=_mean(_angle(c) for c in spectrum),
        values=_mean(c.values for c in real),
        values_gaussian=_mean(c.values for c in gaussian),
        stretched=_mean(c.stretched for c in real),
        turned=_mean(c.turned for c in real),
    )


def turned_by_seed(
    plan: Plan, results: Path, stage: Stage, steps: int, seeds: Sequence[int]
) -> list[Turned]:
    """The change of one row, seed by seed: SFT from the base, RL from its SFT checkpoint."""
    runs = {(run.label, run.seed): run for run in plan.runs}

    def policy(row: str, seed: int) -> Path:
        folder = runs[row, seed].folder(results)
        return (folder.path / str(read_json(folder.done)["policy"])).resolve()

    found = []
    for seed in seeds:
        row = row_of(stage, steps)
        if stage == "healed" and steps:
            started = policy(row_of("sft", steps), seed)
        else:
            started = base_folder(results, plan.name, runs[row, seed].base_name)
        found.append(compare(read_weights(started), read_weights(policy(row, seed)), seed))
    return found


def _angle(of: Change) -> float:
    return (of.left_deg + of.right_deg) / 2


def _mean(values: Iterator[float]) -> float:
    return float(np.mean(list(values)))
