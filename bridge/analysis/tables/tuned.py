"""What equal tuning chose for each row of a suite that is tuned: the settings that it runs with.

The choice lies beside the tidy tables (:mod:`bridge.plan.choices`); a suite without one has no such
table.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bridge.analysis.numbers.frames import Tidy
from bridge.analysis.numbers.palette import label
from bridge.analysis.tables.render import Sheet, Value
from bridge.methods.registry import load_method
from bridge.plan.choices import CHOICE, Choice, Chosen, read_choice
from bridge.store.plugins import METHODS

HEAD = (
    "suite",
    "model",
    "dataset",
    "row",
    "tuned_in",
    "trial",
    "tried",
    "ineligible",
    "lr_sft",
    "lr_rl",
    "knob",
    "knob_value",
    "validation_accuracy",
)
_RATES = ("lr_sft", "lr_rl")


def load_choice(tidy_dir: Path) -> Choice | None:
    """The choice beside tidy tables; None where there is none.

    Raises:
        bridge.store.schema.ConfigError: it was edited.
    """
    path = tidy_dir / CHOICE
    return read_choice(path, "run bridge collect again") if path.is_file() else None


def tuned_sheets(tidy: Tidy, choice: Choice) -> list[Sheet]:
    """A sheet per block, a line per row."""
    sheets = []
    for model, dataset in tidy.blocks:
        lines = [
            [
                Value(label(row)),
                *(Value(f"{chosen.training[rate]:.1e}") for rate in _RATES),
                Value(_knob_words(chosen)),
                Value(f"{100 * chosen.validation:.1f}"),
                Value(f"{chosen.tried - chosen.ineligible} of {chosen.tried}"),
            ]
            for row, chosen in _chosen(tidy, choice, model, dataset)
        ]
        head = ("row", "SFT rate", "RL rate", "own knob", "validation", "trials that finished")
        notes = [
            f"Chosen in the suite {choice.suite}: {choice.rule}. Accuracies in points.",
            "A row that uses one of the rates only was given both all the same.",
        ]
        title = f"Settings of equal trials, {model} on {dataset}"
        sheets.append(Sheet(title, list(map(Value, head)), lines, notes))
    return sheets


def tuned_rows(tidy: Tidy, choice: Choice) -> list[dict[str, object]]:
    """One row per block and row, accuracies in points."""
    return [
        {
            "suite": tidy.suite,
            "model": model,
            "dataset": dataset,
            "row": row,
            "tuned_in": choice.suite,
            "trial": chosen.trial,
            "tried": chosen.tried,
            "ineligible": chosen.ineligible,
            **{rate: chosen.training[rate] for rate in _RATES},
            "knob": ", ".join(_knobs(chosen)),
            "knob_value": ", ".join(map(str, _knobs(chosen).values())),
            "validation_accuracy": 100 * chosen.validation,
        }
        for model, dataset in tidy.blocks
        for row, chosen in _chosen(tidy, choice, model, dataset)
    ]


def _chosen(tidy: Tidy, choice: Choice, model: str, dataset: str) -> Iterator[tuple[str, Chosen]]:
    block = choice.blocks.get(f"{model}/{dataset}")
    for row in tidy.methods(model, dataset):
        if block is not None and row in block.rows:
            yield row, block.rows[row]


def _knobs(chosen: Chosen) -> dict[str, object]:
    """What the row turned beside the rates; of a method of the user's own, whose code is not run
    for a table, nothing."""
    if chosen.method not in METHODS.names():
        return {}
    values = {"options": chosen.options, "training": chosen.training}
    paths = [path.split(".") for path in load_method(chosen.method).tuning or {}]
    return {key: values[part].get(key) for part, key in paths}


def _knob_words(chosen: Chosen) -> str:
    return ", ".join(f"{key} {value}" for key, value in _knobs(chosen).items())
