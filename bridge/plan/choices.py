"""The outcome of a tuning suite, and the rows of other suites that use it.

``choice.json`` lies beside the tidy tables that it was made from, and holds, per model and data
set, the settings of the trial that validation chose for each row
(:mod:`bridge.analysis.tables.trials`). A suite that is ``tuned_by`` such a suite puts them over
its rows, so they stand in every hash. Refused is a choice that was edited, that gave one row more
trials than another, that was made on other data or with other settings, or on the very seeds that
the suite compares. One that was made by other code is used and said.

A tuned suite keeps the choice it was planned with beside its own tidy tables, so that a committed
copy of them can be planned and shown where nothing was tuned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from bridge.plan.config import MethodConfig, Suite, TunedBy
from bridge.store.records import cached_folder, content_hash, read_json, suite_folder
from bridge.store.schema import Closed, ConfigError, Name, Seed, validate

CHOICE = "choice.json"
RULE = (
    "highest mean greedy accuracy on validation problems at the end of training, over the runs of "
    "a trial; a trial with a run that did not finish is not eligible; of equals the first"
)
_TRIED = ("lr_sft", "lr_rl")
_MEASURED = ("probe_every", "probe_size", "probe_samples", "checkpoint_every")
_ASKED = ("world", "questions_scale", "questions_per_rung")


class Chosen(Closed):
    """The trial that was chosen for a row."""

    trial: Name
    method: Name
    options: dict[str, Any]
    """All options of the method."""
    training: dict[str, Any]
    """What the row changes about the suite's training."""
    validation: float
    tried: int = Field(ge=1)
    ineligible: int = Field(ge=0)
    code: str
    """Fingerprint of the code that trained."""


class Tuned(Closed):
    """The choices of one model and data set."""

    protocol: str
    """Hash of what tuning and comparison must have in common."""
    seeds: tuple[Seed, ...]
    """Run seeds of the trials."""
    rows: dict[Name, Chosen]


class Choice(Closed):
    """``choice.json``."""

    suite: Name
    rule: str
    blocks: dict[str, Tuned]
    """By ``model/dataset``."""
    hash: str
    """Of all the rest."""


def choice_path(tuned_by: TunedBy, results: Path) -> Path:
    """Where a suite's settings are read: the committed choice, or that of the trials run here."""
    if tuned_by.frozen:
        return cached_folder(results, tuned_by.suite) / CHOICE
    return suite_folder(results, tuned_by.suite) / "tidy" / CHOICE


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A choice with its hash."""
    return {**record, "hash": content_hash(dict(record))}


def read_choice(path: Path, remedy: str) -> Choice:
    """Read a choice.

    Args:
        remedy: what to do where there is none.

    Raises:
        ConfigError: it is missing, edited, or its rows had unequal numbers of trials.
    """
    if not path.is_file():
        raise ConfigError(f"{path} is missing: the suite takes its settings from there; {remedy}.")
    record = read_json(path)
    choice = validate(Choice, record, path)
    record.pop("hash")
    if content_hash(record) != choice.hash:
        raise ConfigError(f"{path} was edited after it was made; make it again by its suite.")
    for name, block in choice.blocks.items():
        tried = {chosen.tried for chosen in block.rows.values()}
        if len(tried) > 1:
            raise ConfigError(
                f"{path}: {name}: rows were given {' and '.join(map(str, sorted(tried)))} trials; "
                "give each the same number."
            )
    return choice


def protocol(suite: Suite, model: str, dataset: str, options: Mapping[str, Any]) -> str:
    """Hash of what the runs of a block are made under, without what is tried, measured or drawn."""
    base = suite.models[model].model_dump(mode="json")
    training = suite.training.hashed
    return content_hash(
        {
            "model": {k: v for k, v in base.items() if k != "seed"},
            "family": suite.datasets[dataset].family,
            "dataset": {k: v for k, v in options.items() if k not in _ASKED},
            "training": {k: v for k, v in training.items() if k not in (*_TRIED, *_MEASURED)},
        }
    )


class Choices:
    """What a suite takes from a tuning suite."""

    def __init__(self, suite: Suite, file: Path, results: Path, *, cached: bool) -> None:
        """Read the choice.

        Args:
            cached: take the choice that the suite's committed tables were made with.
        """
        assert suite.tuned_by is not None
        self._suite, self._where, name = suite, str(file), file.stem
        if cached:
            self._path = cached_folder(results, name) / CHOICE
            remedy = f"bridge cache --suite {name} copies it with the tables, where they were made"
        else:
            self._path = choice_path(suite.tuned_by, results)
            remedy = "run the tuning suite first (make reproduce does)"
        self._choice = read_choice(self._path, remedy)

    @property
    def record(self) -> dict[str, Any]:
        """What was read."""
        return self._choice.model_dump(mode="json")

    def row(
        self, label: str, model: str, dataset: str, options: Mapping[str, Any], seeds: Iterable[int]
    ) -> MethodConfig:
        """A row with its tuned settings.

        Args:
            options: of the data set.
            seeds: run seeds of the comparison.

        Raises:
            ConfigError: nothing was tuned for it, or under another protocol, or on its seeds.
        """
        name, config = f"{model}/{dataset}", self._suite.methods.get(label, MethodConfig())
        tuned = self._choice.blocks.get(name)
        if tuned is None or label not in tuned.rows:
            raise ConfigError(
                f"{self._where}: {self._path} chose nothing for {label} on {name}; add the row to "
                f"the suite {self._choice.suite} and tune again."
            )
        if tuned.protocol != protocol(self._suite, model, dataset, options):
            raise ConfigError(
                f"{self._where}: {self._path} was made for {name} with other settings of the "
                "model, the data or the training; tune again."
            )
        if shared := sorted(set(tuned.seeds) & set(seeds)):
            raise ConfigError(
                f"{self._where}: seed {shared[0]} on {name} was used for tuning; compare on others."
            )
        chosen = tuned.rows[label]
        if chosen.method != (config.method or label):
            raise ConfigError(
                f"{self._where}: methods.{label} is {config.method or label}, but {self._path} "
                f"tuned {chosen.method} under that name; rename the row or tune again."
            )
        return config.model_copy(update={"options": chosen.options, "training": chosen.training})

    def anywhere(self, label: str) -> MethodConfig | None:
        """A row with the settings that were chosen for it on some model and data set, if any."""
        config = self._suite.methods.get(label, MethodConfig())
        for block in self._choice.blocks.values():
            chosen = block.rows.get(label)
            if chosen is not None and chosen.method == (config.method or label):
                new = {"options": chosen.options, "training": chosen.training}
                return config.model_copy(update=new)
        return None

    def code(self, label: str, model: str, dataset: str) -> str | None:
        """Fingerprint of the code that trained a row's trials; None of a row without any."""
        block = self._choice.blocks.get(f"{model}/{dataset}")
        return block.rows[label].code if block and label in block.rows else None
