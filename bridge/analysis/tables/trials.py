"""The trials of an equal tuning: what each row tried, and which trial validation chose.

Judged is greedy accuracy on validation problems at the end of training (``heldout_accuracy``),
never a test question; the rule stands in :data:`bridge.plan.choices.RULE`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bridge.analysis.numbers.frames import DONE, Tidy, TidyError, block_of
from bridge.analysis.numbers.trials import expected_best
from bridge.analysis.tables.render import Sheet, Value
from bridge.plan.choices import RULE, protocol, sealed
from bridge.plan.fingerprint import train_fingerprint
from bridge.plan.grid import Plan, RunSpec
from bridge.plan.trials import row_of
from bridge.store.columns import KEY


@dataclass(frozen=True)
class Trial:
    """A trial of one row: mean validation accuracy over its runs (a fraction), or None where one of
    them did not finish."""

    label: str
    number: int
    accuracy: float | None
    n_runs: int
    lr_sft: float
    lr_rl: float


def has_trials(tidy: Tidy) -> bool:
    """Whether the rows of a suite are trials."""
    return any(row_of(str(label))[1] is not None for label in tidy.runs["method"].unique())


def trials_of(tidy: Tidy, model: str, dataset: str) -> dict[str, list[Trial]]:
    """Trials of a block by row, in the order of their numbers."""
    runs = block_of(tidy.runs, model, dataset)
    last = (
        block_of(tidy.dynamics, model, dataset)
        .dropna(subset=["heldout_accuracy"])
        .sort_values("step")
        .groupby(list(KEY), sort=False)
        .tail(1)
    )
    table = runs.merge(last[[*KEY, "heldout_accuracy"]], on=list(KEY), how="left")
    found: dict[str, list[Trial]] = {}
    for label, part in table.groupby("method", sort=False, observed=True):
        row, number = row_of(str(label))
        if number is None:
            continue
        complete = (part["status"] == DONE).all() and part["heldout_accuracy"].notna().all()
        mean = float(part["heldout_accuracy"].astype(float).mean()) if complete else None
        first = part.iloc[0]
        trial = Trial(
            str(label), number, mean, len(part), float(first["lr_sft"]), float(first["lr_rl"])
        )
        found.setdefault(row, []).append(trial)
    return {row: sorted(trials, key=lambda t: t.number) for row, trials in found.items()}


def best(trials: list[Trial]) -> Trial | None:
    """The trial that the rule chooses; None where none is eligible."""
    eligible = [trial for trial in trials if trial.accuracy is not None]
    return max(eligible, key=lambda trial: trial.accuracy or 0.0) if eligible else None


def make_choice(tidy: Tidy, plan: Plan) -> dict[str, Any]:
    """``choice.json`` of a suite of trials.

    Raises:
        TidyError: a row has no eligible trial, or the suite has no trials.
    """
    if not has_trials(tidy):
        raise TidyError(f"suite {plan.name} has no trials; set `trials` in its file")
    specs: dict[tuple[str, str, str], RunSpec] = {
        (s.model, s.dataset, s.label): s for s in plan.runs
    }
    blocks = {}
    for model, dataset in tidy.blocks:
        rows = {}
        for row, trials in trials_of(tidy, model, dataset).items():
            chosen = best(trials)
            if chosen is None or chosen.accuracy is None:
                raise TidyError(
                    f"{model} x {dataset}: no trial of {row} finished; nothing can be chosen for it"
                )
            spec = specs[model, dataset, chosen.label]
            rows[row] = {
                "trial": chosen.label,
                "method": spec.method,
                "options": spec.method_options,
                "training": dict(plan.suite.methods[chosen.label].training),
                "validation": chosen.accuracy,
                "tried": len(trials),
                "ineligible": sum(trial.accuracy is None for trial in trials),
                "code": train_fingerprint(spec),
            }
        some = next(s for s in plan.runs if (s.model, s.dataset) == (model, dataset))
        seeds = sorted({s.seed for s in plan.runs if (s.model, s.dataset) == (model, dataset)})
        blocks[f"{model}/{dataset}"] = {
            "protocol": protocol(plan.suite, model, dataset, some.dataset_options),
            "seeds": seeds,
            "rows": rows,
        }
    return sealed({"suite": plan.name, "rule": RULE, "blocks": blocks})


def trial_sheets(tidy: Tidy) -> list[Sheet]:
    """Two sheets per block: a line per trial, the rows side by side, the chosen ones bold; and what
    fewer trials would have reached."""
    return [
        make(model, dataset, trials_of(tidy, model, dataset))
        for model, dataset in tidy.blocks
        for make in (_sheet, best_sheet)
    ]


def best_sheet(model: str, dataset: str, rows: Mapping[str, list[Trial]]) -> Sheet:
    """Best-so-far curves: the expected best of k trials of each row, up to all that finished."""
    reached = {
        row: [trial.accuracy for trial in trials if trial.accuracy is not None]
        for row, trials in rows.items()
    }
    lines = []
    for k in range(1, max(map(len, reached.values()), default=0) + 1):
        best_of_k = [
            f"{100 * expected_best(values, k):.1f}" if k <= len(values) else "–"
            for values in reached.values()
        ]
        lines.append([Value(str(k)), *map(Value, best_of_k)])
    notes = [
        "What k trials can be expected to reach: greedy accuracy on validation problems of the "
        "best of k, points, mean over all choices of k of the trials that finished. The same "
        "problems choose and judge, so a number for new problems is lower."
    ]
    title = f"Expected best of k trials, {model} on {dataset}"
    return Sheet(title, [Value("trials"), *map(Value, rows)], lines, notes)


def _sheet(model: str, dataset: str, rows: Mapping[str, list[Trial]]) -> Sheet:
    chosen = {row: best(trials) for row, trials in rows.items()}
    numbers = sorted({trial.number for trials in rows.values() for trial in trials})
    head = [Value("trial"), Value("SFT rate"), Value("RL rate"), *map(Value, rows)]
    lines = []
    for number in numbers:
        own = {row: next((t for t in ts if t.number == number), None) for row, ts in rows.items()}
        some = next(trial for trial in own.values() if trial is not None)
        cells = [_cell(own[row], chosen[row]) for row in rows]
        lines.append(
            [Value(str(number)), Value(f"{some.lr_sft:.1e}"), Value(f"{some.lr_rl:.1e}"), *cells]
        )
    tried = sorted({len(trials) for trials in rows.values()})
    notes = [
        f"Greedy accuracy on validation problems after training, points. Bold: chosen ({RULE}).",
        f"Trials of each row: {' or '.join(map(str, tried))}. Rates are shared by all rows of a "
        "line; a row also turns its own knob.",
    ]
    return Sheet(f"Tuning trials, {model} on {dataset}", head, lines, notes)


def _cell(trial: Trial | None, chosen: Trial | None) -> Value:
    if trial is None:
        return Value("–")
    if trial.accuracy is None:
        return Value("not finished", is_word=True)
    return Value(f"{100 * trial.accuracy:.1f}", highest=trial is chosen)


HEAD = (
    "suite",
    "model",
    "dataset",
    "row",
    "trial",
    "lr_sft",
    "lr_rl",
    "validation_accuracy",
    "n_runs",
    "chosen",
)


def trial_rows(tidy: Tidy) -> list[dict[str, object]]:
    """One row per block, row and trial, accuracies in points."""
    return [
        {
            "suite": tidy.suite,
            "model": model,
            "dataset": dataset,
            "row": row,
            "trial": trial.number,
            "lr_sft": trial.lr_sft,
            "lr_rl": trial.lr_rl,
            "validation_accuracy": None if trial.accuracy is None else 100 * trial.accuracy,
            "n_runs": trial.n_runs,
            "chosen": trial is best(trials),
        }
        for model, dataset in tidy.blocks
        for row, trials in trials_of(tidy, model, dataset).items()
        for trial in trials
    ]
