"""The parts that a suite declares: models, data sets and rows, each checked by itself.

Checked whether or not the grid uses them: a row that is put into the grid next month is as right as
the others. What lies on disk is asked of the parts in the grid only, for a grid may be cut down to
what a machine holds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from bridge.methods.registry import load_method
from bridge.models import CheckpointError
from bridge.models.folder import check_folder, checkpoint_hash
from bridge.plan.choices import Choices
from bridge.plan.config import DatasetConfig, MethodConfig, Suite
from bridge.plan.rewards import reward_hash
from bridge.store.plugins import check_known
from bridge.store.schema import ConfigError, merge, validate
from bridge.store.settings import (
    EvaluationConfig,
    LocalModel,
    PackageModel,
    TinyModel,
    TrainingConfig,
    WarmUp,
)
from bridge.tasks.registry import family_names, load_family

MEMORY = Path("results", ".hashes")
"""Below the root: hashes of files of local models, so that they are read once; may be deleted."""
_TASK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def _check_benchmarks(family: str, options: BaseModel, where: str) -> None:
    """Refuse a family whose policies could not be evaluated."""
    names = load_family(family).benchmark_names(options)
    if not names:
        raise ConfigError(
            f"{where}: the family '{family}' names no benchmark, so what is trained on it could "
            "not be evaluated; add one to its benchmark_names."
        )
    odd = [name for name in names if not _TASK_NAME.fullmatch(name)]
    twice = [name for name in names if names.count(name) > 1]
    if odd or twice:
        what = "with characters that lm-eval's task names lack" if odd else "twice"
        raise ConfigError(
            f"{where}: the family '{family}' names the benchmark '{(odd + twice)[0]}' {what}; "
            "rename it."
        )


@dataclass(frozen=True)
class CheckedRow:
    """A row of the tables, checked."""

    method: str
    options: BaseModel
    training: TrainingConfig
    targets: str | None
    """Layers that its adapter changes, if it has one."""
    n_steps: int
    """0: nothing is trained."""


@dataclass(frozen=True)
class DiskHashes:
    """Of what lies on disk and is the user's."""

    models: dict[str, str]
    """Of each model that is a folder."""
    rewards: dict[str, str]
    """Of the reward function of each data set that has one."""


class Parts:
    """What a suite declares, checked whether or not its grid uses it."""

    def __init__(self, suite: Suite, path: Path, root: Path, *, cached: bool) -> None:
        self.suite, self.path, self.root = suite, path, root
        self.options = {name: self._options(name) for name in suite.datasets}
        self.choices = (
            Choices(suite, path, root / "results", cached=cached) if suite.tuned_by else None
        )
        labels = [*suite.methods, *(label for block in suite.grid for label in block.methods)]
        self.rows = {
            label: self._row(label, self._declared(label)) for label in dict.fromkeys(labels)
        }
        self._own: dict[tuple[str, str, str], CheckedRow] = {}
        for name, model in suite.models.items():
            where = f"models.{name}"
            for family in model.families if isinstance(model, TinyModel) else ():
                here = f"{path}: {where}.families: "
                check_known("problem family", family, family_names(), here)
            if isinstance(model, PackageModel) and model.warm_up is not None:
                here = f"{path}: {where}.warm_up.family: "
                check_known("problem family", model.warm_up.family, family_names(), here)
                self._family_options(model.warm_up, f"{where}.warm_up")
        known = [
            benchmark
            for name, config in suite.datasets.items()
            for benchmark in load_family(config.family).benchmark_names(self.options[name])
        ]
        for benchmark in suite.train_on_benchmarks:
            check_known("benchmark", benchmark, known, f"{path}: train_on_benchmarks: ")

    def _options(self, dataset: str) -> BaseModel:
        config, where = self.suite.datasets[dataset], f"datasets.{dataset}"
        options = self._family_options(config, where)
        _check_benchmarks(config.family, options, f"{self.path}: {where}")
        return options

    def _family_options(self, config: DatasetConfig | WarmUp, where: str) -> BaseModel:
        family = load_family(config.family, f"{self.path}: {where}.family: ")
        schema: type[BaseModel] = family.Options
        return validate(schema, config.options, self.path, f"{where}.options")

    def row(self, label: str, model: str, dataset: str) -> CheckedRow:
        """A row as it is run on a model and data set: with its tuned settings where it has some,
        and with the length of the data set's answers.

        Raises:
            ConfigError: the row cannot do with that length.
        """
        longest = self.suite.datasets[dataset].max_response_tokens
        tuned = self.choices is not None and self.rows[label].n_steps > 0
        if not tuned and longest is None:
            return self.rows[label]
        key = (label, model, dataset)
        if key not in self._own:
            plain = self.suite.methods.get(label, MethodConfig())
            config = self._tuned(label, model, dataset) if tuned else plain
            self._own[key] = self._row(label, config, longest)
        return self._own[key]

    def _declared(self, label: str) -> MethodConfig:
        """A row as the suite has it; what is tuned need not be said again."""
        config = self.suite.methods.get(label, MethodConfig())
        tuned = self.choices.anywhere(label) if self.choices else None
        return tuned or config

    def _tuned(self, label: str, model: str, dataset: str) -> MethodConfig:
        assert self.choices is not None
        options = self.options[dataset].model_dump(mode="json")
        seeds = [
            seed
            for block in self.suite.grid
            if model in block.models and dataset in block.datasets
            for seed, _ in block.replicates
        ]
        return self.choices.row(label, model, dataset, options, seeds)

    def evaluation(self, dataset: str) -> EvaluationConfig:
        """How a policy trained on a data set is measured."""
        longest = self.suite.datasets[dataset].max_response_tokens
        own = {} if longest is None else {"max_response_tokens": longest}
        return self.suite.evaluation.model_copy(update=own)

    def _row(self, label: str, config: MethodConfig, longest: int | None = None) -> CheckedRow:
        where = f"methods.{label}"
        name = config.method or label
        method = load_method(name, f"{self.path}: {where}: ")
        raw = self.suite.training.model_dump()
        if longest is not None:
            raw["max_response_tokens"] = longest
        merge(raw, config.training)
        training = validate(TrainingConfig, raw, self.path, f"{where}.training")
        options = validate(method.Options, config.options, self.path, f"{where}.options")
        made = method(options, training)
        made.check(f"{self.path}: {where}")
        targets = None if made.adapter is None or made.adapter.full else made.adapter.targets
        return CheckedRow(name, options, training, targets, made.n_steps)

    def check_disk(self, models: set[str], datasets: set[str]) -> DiskHashes:
        """Refuse files that these parts need and that are not there, or are others; hash those that
        their settings do not pin."""
        hashes, rewards = {}, {}
        for name in sorted(models):
            model = self.suite.models[name]
            if isinstance(model, LocalModel):
                try:
                    check_folder(Path(model.path))
                except CheckpointError as error:
                    raise ConfigError(f"{self.path}: models.{name}.path: {error}") from None
                hashes[name] = checkpoint_hash(Path(model.path), self.root / MEMORY)
            if isinstance(model, PackageModel) and model.warm_up is not None:
                where = f"models.{name}.warm_up"
                options = self._family_options(model.warm_up, where)
                load_family(model.warm_up.family).check(options, f"{self.path}: {where}")
        for name in sorted(datasets):
            config, where = self.suite.datasets[name], f"{self.path}: datasets.{name}"
            load_family(config.family).check(self.options[name], where)
            if config.reward is not None:
                rewards[name] = reward_hash(config.reward, self.root, f"{where}.reward")
        return DiskHashes(hashes, rewards)
