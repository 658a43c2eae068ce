"""The study of forgetting and healing: peaks, shares, turned weights, predictions, its suites."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from bridge.analysis.numbers.frames import Tidy, TidyError
from bridge.plan.grid import Plan, load_plan
from bridge.store.records import base_folder, write_json
from bridge.store.schema import read_yaml
from studies.healing.report import PREDICTIONS, Spectra, quantity, spectra_of, tables
from studies.healing.sweep import INSIDE, OUTSIDE, Sweep, read_sweep, row_of, stage_of
from studies.healing.weights import compare, read_weights
from tests.fixtures.workflow import ROOT

# Right answers out of ten questions on each half, by row: (inside, outside), the same in all worlds
# up to one question more out of distribution in world 2. The rows are those of the smoke suite.
RIGHT = {
    "base": (2, 4),
    "sft_4": (4, 6),
    "sft_8": (6, 3),
    "rl_zero": (5, 5),
    "healed_8": (7, 5),
}


def made(seeds: tuple[int, ...] = (100, 200, 300), *, lucky: bool = False, **changed: Any) -> Tidy:
    """With `lucky`, the base answers everything outside on the choosing half, and only there."""
    runs, scores = [], []
    for row, rights in RIGHT.items():
        for seed in seeds:
            runs.append({"suite": "healing", "model": "m", "dataset": "d", "method": row})
            runs[-1] |= {"seed": seed, "status": changed.get(f"{row}/{seed}", "done")}
            for benchmark, right in zip((INSIDE, OUTSIDE), rights, strict=True):
                right += benchmark == OUTSIDE and seed == 200
                for i in range(20):
                    correct = i // 2 < right
                    if lucky and row == "base" and benchmark == OUTSIDE:
                        correct = i % 2 == 0
                    key = {"method": row, "seed": seed, "benchmark": benchmark}
                    scores.append(
                        key | {"question_id": f"{benchmark}/{i:05d}", "greedy_correct": correct}
                    )
    nothing = pd.DataFrame()
    return Tidy(pd.DataFrame(runs), pd.DataFrame(scores), nothing, nothing)


def test_rows_are_stages_and_steps() -> None:
    for row in ("base", "rl_zero", "sft_32", "healed_512"):
        stage, steps = stage_of(row) or ("sft", -1)
        assert row_of(stage, steps) == row
    assert stage_of("bridge") is None and stage_of("sft_x") is None


def test_peak_loss_gain_and_share() -> None:
    sweep = read_sweep(made())
    assert sweep.seeds == (100, 200, 300)
    assert (sweep.peak(OUTSIDE), sweep.peak(INSIDE)) == (4, 8)
    assert sweep.forgotten().tolist() == [-30, -30, -30]
    assert sweep.gain(8, OUTSIDE).tolist() == [20, 20, 20]
    share = sweep.restored(8)
    assert share is not None and share.value == pytest.approx(2 / 3)
    assert sweep.restored(0) is None and sweep.restored(4) is None
    assert sweep.whole("sft", 4, INSIDE).tolist() == [40, 40, 40]


def test_a_peak_that_was_luck_is_reported_as_it_is_elsewhere() -> None:
    """Chosen at 100 on one half, the base is 0 on the other: nothing was forgotten after it."""
    sweep = read_sweep(made(lucky=True))
    assert sweep.peak(OUTSIDE) == 0
    assert sweep.forgotten().tolist() == [30, 40, 30]


def test_seeds_that_lack_a_row_are_left_out() -> None:
    assert read_sweep(made(**{"sft_4/100": "diverged"})).seeds == (200, 300)
    with pytest.raises(TidyError, match="1 seeds have all rows"):
        read_sweep(made(**{"sft_4/100": "diverged", "healed_8/200": "collapsed"}))


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Plan, Path]:
    """The smoke suite and its policies: SFT turns every matrix by a degree a step, RL by 5 more."""
    rng = np.random.default_rng(0)
    names = ("self_attn.q_proj", "mlp.down_proj", "mlp.up_proj")
    base = {f"model.layers.0.{n}.weight": rng.standard_normal((8, 8)) for n in names}

    def write(folder: Path, degrees: float) -> None:
        turn, angle = np.eye(8), np.radians(degrees)
        turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        folder.mkdir(parents=True, exist_ok=True)
        save_file({n: turn @ w for n, w in base.items()}, folder / "model.safetensors")

    plan = load_plan("healing_smoke", root=ROOT)
    assert {run.label for run in plan.runs} == set(RIGHT)
    for run in plan.runs:
        stage, steps = stage_of(run.label) or ("sft", 0)
        write(base_folder(tmp_path, plan.name, run.base_name), 0)
        write(run.folder(tmp_path).policy, steps + 5 * (stage == "healed"))
        write_json(run.folder(tmp_path).done, {"policy": "policy"})
    return plan, tmp_path


@pytest.fixture
def measured(trained: tuple[Plan, Path]) -> tuple[Sweep, Spectra]:
    sweep = read_sweep(made((100, 200)))
    return sweep, spectra_of(*trained, sweep)


def test_weights_are_compared_with_where_the_stage_began(measured: tuple[Sweep, Spectra]) -> None:
    sweep, spectra = measured
    assert set(spectra) == {("sft", 4), ("sft", 8), ("healed", 0), ("healed", 8)}
    angle = {key: own[0].angle_deg for key, own in spectra.items()}
    assert angle["sft", 4] < angle["healed", 0] < angle["sft", 8]
    # RL turned by 5 degrees from wherever it began: the update is as large from the base.
    sizes = [spectra["healed", k][0].relative_norm for k in (0, 8)]
    assert sizes[0] == pytest.approx(sizes[1])
    assert all(turned.values < 1e-9 < turned.values_gaussian for turned in spectra["sft", 8])
    text = tables(sweep, spectra, read_yaml(PREDICTIONS)["healing"])
    assert "that of 4 steps, in distribution that of 8" in text
    assert "| 8 | 60.0 [60.0, 60.0] |" in text and "0.67 [0.67, 0.67]" in text
    assert "| RL after 8 steps |" in text


def test_only_attention_and_down_projections_are_looked_at(
    trained: tuple[Plan, Path], tmp_path: Path
) -> None:
    plan, results = trained
    found = read_weights(base_folder(results, plan.name, plan.runs[0].base_name))
    assert sorted(n.split(".")[-2] for n in found) == ["down_proj", "q_proj"]
    with pytest.raises(FileNotFoundError, match="needs the policies"):
        read_weights(tmp_path)


def test_a_random_update_is_its_own_null() -> None:
    rng = np.random.default_rng(4)
    before = {
        f"layers.{i}.self_attn.q_proj.weight": rng.standard_normal((64, 64)) for i in range(6)
    }
    after = {n: w + 0.02 * rng.standard_normal(w.shape) for n, w in before.items()}
    found = compare(before, after, seed=0)
    assert found.angle_deg == pytest.approx(found.angle_gaussian_deg, rel=0.2)
    assert found.angle_deg == pytest.approx(found.angle_turned_deg, rel=0.2)
    assert found.values == pytest.approx(found.values_gaussian, rel=0.3)


def test_predictions_are_held_against_what_was_found(measured: tuple[Sweep, Spectra]) -> None:
    limits: dict[str, tuple[dict[str, float], str]] = {
        "forgotten": ({"at_most": -3}, "came true"),
        "kept_inside": ({"at_least": 20}, "came true"),
        "healed": ({"at_least": 21}, "did not"),
        "restored": ({"at_most": 1}, "came true"),
        "window": ({"at_most": 9}, "did not"),
        "sft_turning": ({"at_least": -90}, "came true"),
        "rl_turning": ({"at_most": 0}, "came true"),
    }
    named = {p["quantity"] for p in read_yaml(PREDICTIONS)["healing"]}
    assert named == set(limits)
    for name, (limit, outcome) in limits.items():
        assert quantity(name, *measured) is not None
        text = tables(*measured, [{"name": "p", "quantity": name, "probability": 0.7, **limit}])
        assert text.endswith(f"| {outcome} |\n"), (name, text.splitlines()[-1])


def test_nothing_forgotten_is_nothing_to_restore(measured: tuple[Sweep, Spectra]) -> None:
    lucky = read_sweep(made((100, 200), lucky=True))
    shown = {"name": "p", "quantity": "restored", "probability": 0.7, "at_most": 1}
    assert "did not" not in tables(lucky, measured[1], [shown]).splitlines()[-1]
    first = replace(lucky, accuracy={k: v * 0 for k, v in lucky.accuracy.items()})
    assert "| nothing to restore | undecided |" in tables(first, measured[1], [shown])


def test_a_prediction_has_one_limit_and_is_believed() -> None:
    for prediction in read_yaml(PREDICTIONS)["healing"]:
        assert 0.5 <= prediction["probability"] < 1
        assert ("at_least" in prediction) != ("at_most" in prediction)


@pytest.mark.parametrize("name", ["healing", "healing_smoke"])
def test_the_suites_hold_one_sweep(name: str) -> None:
    plan = load_plan(name, root=ROOT)
    rows = {run.label: run for run in plan.runs}
    healed = [stage_of(row) for row in rows if (stage_of(row) or ("",))[0] == "healed"]
    for row, run in rows.items():
        stage, steps = stage_of(row) or ("", -1)
        own = {"sft": "steps", "healed": "sft_steps"}[stage]
        assert run.method_options.get(own, 0) == steps or row == "rl_zero"
    # RL from a checkpoint needs the row of that checkpoint, and one budget for all.
    assert all(row_of("sft", steps) in rows for _, steps in healed if steps)
    budgets = {r.method_options["rl_steps"] for n, r in rows.items() if n.startswith("healed")}
    assert budgets == {rows["rl_zero"].method_options["steps"]}
