"""Draws ``docs/images/token_weights.png``: what each method makes of a demonstration token.

python docs/images/token_weights.py

Every curve is computed by the method's own ``weight`` or ``token_weight``.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from torch import Tensor

from bridge.analysis.numbers.palette import style
from bridge.methods.registry import load_method
from bridge.step.batches import MicroBatch
from bridge.store.settings import TrainingConfig

TRAINING = TrainingConfig(
    max_response_tokens=1, lr_sft=0, lr_rl=0, probe_every=1, checkpoint_every=1
)
P = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)


def weight(name: str, columns: dict[str, Tensor] | None = None, **options: Any) -> Tensor:
    """c_t of tokens with probabilities P, under A = 1."""
    kind = load_method(name)
    method: Any = kind(kind.Options(steps=1, **options), TRAINING)
    if hasattr(method, "weight"):
        method.threshold = 1.0
        found: Tensor = method.weight(P.log(), columns or {})
        return found
    row = P[None]
    batch = MicroBatch((), row, row, row > 0, torch.ones(1, 1, dtype=torch.float64), row.log())
    found = method.token_weight(batch)[0]
    return found


def full(value: float) -> Tensor:
    return torch.full_like(P, value)


def draw_probability(axes: Axes) -> None:
    """c as a function of p."""
    curves = [  # style, curve, label, where the label stands
        ("sft", full(1.0), "SFT", (0.66, 1.02)),
        ("dft", weight("dft"), "DFT", (0.66, 0.6)),
        ("trapo", weight("trapo"), "TRAPO (TrSFT), α = 0.1", (0.11, 0.94)),
        ("idft", weight("idft", {"entropy": full(20.0)}), "IDFT, g = 0.1", (0.22, 0.79)),
        ("idft", weight("idft", {"entropy": full(-9.0)}), "IDFT, g = 2", (0.65, 0.36)),
        ("sed_sft", weight("sed_sft", {"topk_mass": full(0.5)}), "SED-SFT, m = 1", (0.2, 1.15)),
        ("luffy", weight("luffy"), "LUFFY, γ = 0.1", (0.7, 0.05)),
        ("chord_phi", weight("chord", phi=True), "CHORD-φ, GAC", (0.29, 0.255)),
        ("srft", 0.5 * math.exp(-1.0) + weight("dft"), "SRFT, H = 1 nat", (0.13, 0.6)),
    ]
    for name, c, text, at in curves:
        look = style(name)
        axes.plot(P, c, color=look.color, dashes=look.dashes or (None, None), lw=1.6)
        axes.text(*at, text, color=look.color, size=8)
    axes.set_xlabel("probability p of the token")
    axes.set_ylabel("weight c")
    axes.set_title("By the token's probability (A = 1)", size=10)
    axes.set_ylim(0, 1.25)


def draw_ratio(axes: Axes) -> None:
    """PSFT: c as a function of p / p_old."""
    ratio = torch.linspace(0.4, 1.8, 999, dtype=torch.float64)
    kind = load_method("psft")
    method: Any = kind(kind.Options(steps=1), TRAINING)
    c = method.weight(ratio.log(), {"reference": torch.zeros_like(ratio)})
    axes.plot(ratio, c, color=style("psft").color, lw=1.6)
    axes.set_xlabel("p / p of the old policy")
    axes.set_title("PSFT: by its growth", size=10)
    axes.set_ylim(0, 1.4)


def draw_entropy(axes: Axes) -> None:
    """EAFT and SRFT: c as a function of entropy."""
    entropy = torch.linspace(0.0, math.log(20), 999, dtype=torch.float64)
    kind = load_method("eaft")
    method: Any = kind(kind.Options(steps=1), TRAINING)
    c = method.weight(entropy, {"topk_entropy": entropy})
    axes.plot(entropy, c, color=style("eaft").color, lw=1.6, label="EAFT, top 20")
    axes.plot(
        entropy,
        0.5 * (-entropy).exp(),
        color=style("srft").color,
        lw=1.6,
        label="SRFT, likelihood part",
    )
    axes.set_xlabel("entropy in nats")
    axes.set_title("By the entropy", size=10)
    axes.legend(fontsize=7.5, frameon=False)
    axes.set_ylim(0, 1.1)


def draw_distance(axes: Axes) -> None:
    """PEAR: c as a function of the tokens left."""
    length = 400
    kind = load_method("pear")
    method: Any = kind(kind.Options(steps=1), TRAINING)
    left = torch.arange(length).flip(0)
    zero = torch.zeros(length, dtype=torch.float64)
    for d, dash in ((0.01, (4.0, 1.6)), (0.0, (None, None)), (-0.02, (1.0, 1.3))):
        c = method.weight(zero + d, {"teacher": zero})
        axes.semilogy(left, c, color=style("pear").color, dashes=dash, lw=1.6, label=f"d = {d:+g}")
    axes.set_xlabel("tokens left")
    axes.set_title("PEAR: by the distance to the end", size=10)
    axes.legend(fontsize=7.5, frameon=False)


def draw() -> None:
    figure = plt.figure(figsize=(11.4, 4.9))
    left, right = figure.subfigures(1, 2, width_ratios=(1.15, 1.0))
    draw_probability(left.subplots())
    top, bottom = right.subplots(2, 2)
    draw_ratio(top[0])
    draw_entropy(top[1])
    wide = right.add_subplot(2, 1, 2)
    for axes in bottom:
        axes.remove()
    draw_distance(wide)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    left.subplots_adjust(left=0.105, right=0.97, bottom=0.12, top=0.93)
    right.subplots_adjust(left=0.1, right=0.98, bottom=0.12, top=0.93, hspace=0.55, wspace=0.25)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    draw()
