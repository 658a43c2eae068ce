"""Error rates and power of the whole procedure, by simulation; writes counts as JSON.

An experiment is one block: methods trained with the same seeds answer the same questions, and every
method is compared with one baseline as the difference table does it (pooled and moderated seed
variance, Holm over the family). There are three kinds: all methods are equal, so any difference
that is found is an error; one is ahead by `EFFECT` points, which should be found; one is ahead by
the margin of 2 points, so that calling it equivalent is an error.

    python benchmarks/error_rates.py results.json [experiments]
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from bridge.analysis.numbers.paired import difference_uncertainty, holm
from bridge.analysis.numbers.pooled import pooled_uncertainty, seed_spread
from bridge.analysis.numbers.statistics import components, crossed_limits
from bridge.analysis.numbers.uncertainty import MARGINS, SIGNIFICANT, equivalence_p

SEEDS = (2, 3, 5, 10)
EFFECT = 10.0
CHUNK = 150
SHOWN = (
    ("family error", "family_errors", "experiments"),
    ("robust", "family_errors_robust", "experiments"),
    ("error of one", "errors", "comparisons"),
    ("cells cover", "cells_covered", "cells"),
    ("power", "found", "experiments"),
    ("robust", "found_robust", "experiments"),
    ("equivalent", "equivalent", "experiments"),
    ("at margin", "equivalent_at_margin", "experiments"),
)
"""Columns of the printed table: shares in percent of two counts."""
Array = NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """How runs vary, in logits unless a name says otherwise; the defaults are near the zoo's."""

    sizes: tuple[int, ...] = (500, 272, 30, 40)
    accuracy: float = 0.65
    n_methods: int = 15
    seed_sd: float = 0.09
    run_sd: float = 0.13
    unequal: float = 0.0
    """Log sd of the methods' own `run_sd`."""
    question_sd: float = 1.5
    method_question_sd: float = 0.6
    run_question_sd: float = 0.6
    heavy: bool = False
    """Effects of seeds and runs from a t distribution with 3 degrees of freedom."""
    collapse: float = 0.0
    """Chance that a run ends at a tenth of its accuracy."""


WORLDS = {
    "normal": World(),
    "heavy tails": World(heavy=True),
    "unequal spread": World(unequal=0.5),
    "seeds and questions interact": World(run_question_sd=1.5),
    "ceiling": World(accuracy=0.95, seed_sd=0.2, run_sd=0.3),
    "30 questions": World(sizes=(30,)),
    "three methods": World(n_methods=3),
    "one seed in ten collapses": World(collapse=0.1),
    "2,000 questions, small spread": World(
        sizes=(2000,), n_methods=4, seed_sd=0.03, run_sd=0.04, method_question_sd=0.2
    ),
}


def _effects(random: np.random.Generator, shape: tuple[int, ...], heavy: bool) -> Array:
    """Effects of variance 1."""
    return random.standard_t(3, shape) / 3**0.5 if heavy else random.normal(0, 1, shape)


def answers(
    world: World, random: np.random.Generator, n_seeds: int, n: int, ahead: float = 0.0
) -> list[Array]:
    """`[experiments, methods, seeds, questions]` per benchmark; the last method is `ahead`."""
    methods = (n, world.n_methods)
    spread = world.run_sd * np.exp(world.unequal * random.normal(0, 1, methods))
    run = world.seed_sd * _effects(random, (n, 1, n_seeds), world.heavy)
    run = run + spread[..., None] * _effects(random, (*methods, n_seeds), world.heavy)
    shift = np.zeros(world.n_methods)
    shift[-1] = logit(min(world.accuracy + ahead / 100, 0.999)) - logit(world.accuracy)
    kept = np.where(random.random((*methods, n_seeds)) < world.collapse, 0.1, 1.0)
    # Averaging over effects flattens the logistic curve; this undoes most of it.
    stretch = (1 + 0.35 * (world.question_sd**2 + world.method_question_sd**2)) ** 0.5
    centre = stretch * (logit(world.accuracy) + shift[:, None] + run)
    found = []
    for size in world.sizes:
        question = random.normal(0, world.question_sd, (n, 1, 1, size))
        question = question + random.normal(0, world.method_question_sd, (*methods, 1, size))
        noise = random.standard_normal((*methods, n_seeds, size), dtype=np.float32)
        logits = (centre[..., None] + question).astype(np.float32)
        chance = kept[..., None] * expit(logits + np.float32(world.run_question_sd) * noise)
        draws = random.random(chance.shape, dtype=np.float32)
        found.append((draws < chance).astype(float))
    return found


@lru_cache
def expected(world: World, ahead: float = 0.0) -> tuple[float, float]:
    """True mean accuracy of a method, and of the one that is ahead, from one large draw."""
    wide = replace(world, sizes=(40,), n_methods=2)
    random = np.random.default_rng(1)
    drawn = [answers(wide, random, 10, 500, ahead)[0].mean((0, 2, 3)) for _ in range(20)]
    behind, first = np.mean(drawn, 0)
    return float(behind), float(first)


def at_margin(world: World) -> float:
    """`ahead` for which the true lead is the margin; the logistic curve bends it a little."""
    points = 100 * MARGINS[-1]
    behind, first = expected(world, points)
    return points * MARGINS[-1] / (first - behind)


def judged(found: list[Array]) -> tuple[Array, Array, Array, Array]:
    """Estimates, p and TOST's p of every method against the first, and p of the robust interval."""
    scores = np.asarray(sum(stratum.mean(-1) for stratum in found)) / len(found)
    spread = seed_spread(scores)
    assert spread is not None
    columns = []
    for method in range(1, scores.shape[-2]):
        sides = [[stratum[:, m] for stratum in found] for m in (method, 0)]
        mean, pooled = pooled_uncertainty(sides[0], sides[1], spread)
        _, robust = difference_uncertainty(sides[0], sides[1])
        same = equivalence_p(pooled, mean, MARGINS[-1])
        columns.append((mean, pooled.p_value(mean), same, robust.p_value(mean)))
    estimate, p, equal, robust_p = (np.stack(c, -1) for c in zip(*columns, strict=True))
    return estimate, p, equal, robust_p


def family_errors(p: Array) -> int:
    """Experiments in which Holm's adjustment leaves some p below 5 %."""
    return sum(bool((holm(row) < SIGNIFICANT).any()) for row in p)


def count(world: World, n_seeds: int, experiments: int) -> dict[str, int]:
    """Counts over `experiments` under the null hypothesis and with one method ahead."""
    truth, _ = expected(world)
    margin = at_margin(world)
    total: Counter[str] = Counter()
    random = np.random.default_rng([n_seeds, len(world.sizes), int(1000 * world.accuracy)])
    chunk = CHUNK * 3 // max(n_seeds, 3)
    for start in range(0, experiments, chunk):
        n = min(chunk, experiments - start)
        found = answers(world, random, n_seeds, n)
        _, p, equal, robust = judged(found)
        total["experiments"] += n
        total["family_errors"] += family_errors(p)
        total["family_errors_robust"] += family_errors(robust)
        total["comparisons"] += p.size
        total["errors"] += int((p < SIGNIFICANT).sum())
        total["errors_robust"] += int((robust < SIGNIFICANT).sum())
        total["equivalent"] += int((equal[:, -1] < SIGNIFICANT).sum())
        low, high = crossed_limits(components(found))
        total["cells"] += low.size
        total["cells_covered"] += int(((low <= truth) & (truth <= high)).sum())
        _, p, _, robust = judged(answers(world, random, n_seeds, n, ahead=EFFECT))
        total["found"] += sum(bool(holm(row)[-1] < SIGNIFICANT) for row in p)
        total["found_robust"] += sum(bool(holm(row)[-1] < SIGNIFICANT) for row in robust)
        _, _, equal, _ = judged(answers(world, random, n_seeds, n, ahead=margin))
        total["equivalent_at_margin"] += int((equal[:, -1] < SIGNIFICANT).sum())
    return dict(total)


def main(path: Path, experiments: int) -> None:
    """Simulate every world at every number of seeds, print shares in percent, write counts."""
    rows = []
    names = [name for name, _, _ in SHOWN]
    print(f"| world | seeds | {' | '.join(names)} |")
    print("|---|" + "---:|" * (1 + len(names)))
    for name, world in WORLDS.items():
        for n_seeds in SEEDS:
            n = count(world, n_seeds, experiments)
            rows.append({"world": name, "n_seeds": n_seeds, **n})
            told = " | ".join(f"{100 * n[top] / n[bottom]:.1f}" for _, top, bottom in SHOWN)
            print(f"| {name} | {n_seeds} | {told} |", flush=True)
            path.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 500)
