"""The study of forgetting and healing: peaks, shares, turned weights, predictions, its suites."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from bridge.analysis.numbers.frames import Tidy, TidyError
from bridge.plan.grid import load_plan
from bridge.store.records import base_folder, run_folder, write_json
from bridge.store.schema import read_yaml
from studies.healing.report import PREDICTIONS, judge, quantity, spectra_of, tables
from studies.healing.sweep import INSIDE, OUTSIDE, read_sweep, row_of, stage_of
from studies.healing.weights import compare, read_weights
from tests.fixtures.workflow import ROOT

# Right answers out of ten questions on each half, by row: (inside, outside), the same for all seeds
# up to one question more out of distribution in seed 1.
RIGHT = {
    "base": (2, 4),
    "sft_4": (4, 6),
    "sft_8": (6, 3),
    "rl_zero": (5, 5),
    "healed_8": (7, 5),
}


def made(lucky: bool = False, **changed: Any) -> Tidy:
    """With `lucky`, the base answers everything outside on the choosing half, and only there."""
    runs, scores = [], []
    for row, rights in RIGHT.items():
        for seed in (0, 1, 2):
            runs.append({"suite": "healing", "model": "m", "dataset": "d", "method": row})
            runs[-1] |= {"seed": seed, "status": changed.get(f"{row}/{seed}", "done")}
            for benchmark, right in zip((INSIDE, OUTSIDE), rights, strict=True):
                right += benchmark == OUTSIDE and seed == 1
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
    assert sweep.seeds == (0, 1, 2)
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
    assert read_sweep(made(**{"sft_4/0": "diverged"})).seeds == (1, 2)
    with pytest.raises(TidyError, match="1 seeds have all rows"):
        read_sweep(made(**{"sft_4/0": "diverged", "healed_8/1": "collapsed"}))


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Policies: SFT turns every matrix by steps / 100 degrees, RL by 5 degrees more."""
    rng = np.random.default_rng(0)
    names = ("self_attn.q_proj", "mlp.down_proj", "mlp.up_proj")
    base = {f"model.layers.0.{n}.weight": rng.standard_normal((8, 8)) for n in names}

    def write(folder: Path, degrees: float) -> None:
        turn, angle = np.eye(8), np.radians(degrees)
        turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        folder.mkdir(parents=True)
        save_file({n: turn @ w for n, w in base.items()}, folder / "model.safetensors")

    write(base_folder(tmp_path, "healing", "m"), 0)
    for row in RIGHT:
        stage, steps = stage_of(row) or ("sft", 0)
        for seed in (0, 1, 2):
            folder = run_folder(tmp_path, "healing", "m", "d", row, seed)
            write(folder.policy, steps + 5 * (stage == "healed"))
            write_json(folder.done, {"policy": "policy"})
    return tmp_path / "healing"


def test_weights_are_compared_with_where_the_stage_began(suite: Path) -> None:
    sweep = read_sweep(made())
    spectra = spectra_of(suite, sweep, "m", "d")
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


def test_only_attention_and_down_projections_are_looked_at(suite: Path, tmp_path: Path) -> None:
    found = read_weights(suite / "models" / "m")
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


@pytest.mark.parametrize(
    ("name", "limits", "came_true"),
    [
        ("forgotten", {"at_most": -3}, True),
        ("forgotten", {"at_least": -3}, False),
        ("kept_inside", {"at_least": 20}, True),
        ("healed", {"at_least": 21}, False),
        ("restored", {"at_most": 1}, True),
        ("window", {"at_most": 9}, False),
        ("rl_turning", {"at_most": 0}, True),
    ],
)
def test_predictions(suite: Path, name: str, limits: dict[str, float], came_true: bool) -> None:
    sweep = read_sweep(made())
    spectra = spectra_of(suite, sweep, "m", "d")
    assert judge({"quantity": name, **limits}, sweep, spectra).came_true is came_true


def test_every_prediction_names_a_quantity_and_believes_something(suite: Path) -> None:
    sweep = read_sweep(made())
    spectra = spectra_of(suite, sweep, "m", "d")
    for prediction in read_yaml(PREDICTIONS)["healing"]:
        assert quantity(prediction["quantity"], sweep, spectra) is not None
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
