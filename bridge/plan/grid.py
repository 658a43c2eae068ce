"""From a suite to the list of its runs.

Everything that can be refused is refused here, before any job starts: unknown names, unknown or
impossible options of methods and families, and grids that ask for the same run twice. Imports no
torch, so ``snakemake -n`` works on a bare machine.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from operator import contains
from pathlib import Path
from typing import Any

from bridge.plan.choices import Choices
from bridge.plan.config import Suite, load_suite, suite_file
from bridge.plan.fingerprint import train_fingerprint
from bridge.plan.lengths import check_context
from bridge.plan.own_code import own_code_hash
from bridge.plan.parts import DiskHashes, Parts
from bridge.plan.targets import check_targets
from bridge.plan.trials import with_trials
from bridge.store.plugins import check_known
from bridge.store.records import RunFolder, content_hash, run_folder
from bridge.store.schema import ConfigError
from bridge.store.settings import (
    EvaluationConfig,
    MadeModel,
    ModelConfig,
    TinyModel,
    TrainingConfig,
)

MOST_RUNS = 20_000
"""Of one suite."""
Cell = tuple[str, str, str, int]
"""Names of a run: model, data set, row, seed."""


@dataclass(frozen=True)
class RunSpec:
    """One run: everything that decides its result, and nothing else but its names."""

    suite: str
    model: str
    dataset: str
    label: str
    """The method's row name; ``method`` is the file in ``bridge/methods/``."""
    seed: int
    model_config: ModelConfig
    family: str
    dataset_options: dict[str, Any]
    method: str
    method_options: dict[str, Any]
    training: TrainingConfig
    evaluation: EvaluationConfig
    world: int | None = None
    """Where the grid draws worlds anew, the one of this run; it stands in the settings of its model
    and of its data set, so in every hash."""
    train_on_benchmarks: tuple[str, ...] = ()
    """A permission that changes no number, so it is in no hash."""
    checkpoint_hash: str | None = None
    """Of the files of a local checkpoint, which stands in the hashes instead of its path; other
    sources are pinned by their own settings."""
    reward: str | None = None
    """The user's function that judges answers, see :class:`bridge.plan.config.DatasetConfig`."""
    reward_hash: str | None = None
    """Of its source."""
    own_code_hash: str | None = None
    """Of a method or a data set that is a module of the user's."""

    def as_dict(self) -> dict[str, Any]:
        """The merged configuration as plain JSON values, as ``spec.json`` holds it."""
        return {
            "suite": self.suite,
            "model": self.model,
            "dataset": self.dataset,
            "label": self.label,
            "seed": self.seed,
            "world": self.world,
            "model_config": self.model_config.model_dump(mode="json"),
            "family": self.family,
            "dataset_options": self.dataset_options,
            "method": self.method,
            "method_options": self.method_options,
            "training": self.training.model_dump(mode="json"),
            "evaluation": self.evaluation.model_dump(mode="json"),
            "train_on_benchmarks": list(self.train_on_benchmarks),
            "checkpoint_hash": self.checkpoint_hash,
            "reward": self.reward,
            "reward_hash": self.reward_hash,
            "own_code_hash": self.own_code_hash,
            "train_hash": self.train_hash,
            "spec_hash": self.spec_hash,
        }

    @cached_property
    def train_hash(self) -> str:
        """Hash of all that can change the trained policy. Suite and row name cannot."""
        return content_hash(
            {
                "seed": self.seed,
                "model": self._hashed_model,
                "family": self.family,
                "dataset": self.dataset_options,
                "method": self.method,
                "options": self.method_options,
                "training": self.training.hashed,
                **({} if self.reward is None else {"reward": [self.reward, self.reward_hash]}),
                **({} if self.own_code_hash is None else {"own_code": self.own_code_hash}),
            }
        )

    @property
    def _hashed_model(self) -> dict[str, Any]:
        """A folder counts by what it holds: moved it is the same model, edited another one."""
        model = self.model_config.model_dump(mode="json")
        if self.checkpoint_hash is None:
            return model
        return {**model, "path": None, "checkpoint": self.checkpoint_hash}

    @cached_property
    def spec_hash(self) -> str:
        """Hash of all that can change a score: training and evaluation."""
        return content_hash({"train": self.train_hash, "evaluation": self.evaluation.hashed})

    @property
    def base_name(self) -> str:
        """Name of the folder of the base model."""
        return self.model if self.world is None else f"{self.model}.world{self.world}"

    def folder(self, results: Path) -> RunFolder:
        """The run's folder below the results folder."""
        return run_folder(results, self.suite, self.model, self.dataset, self.label, self.seed)


@dataclass(frozen=True)
class Plan:
    """A checked suite."""

    name: str
    suite: Suite
    runs: tuple[RunSpec, ...]
    choices: Choices | None = None
    """Where the settings of its rows come from, if they were tuned."""

    def rows_tuned_by_other_code(self) -> list[str]:
        """Rows whose settings were chosen by trials that other training code made."""
        if self.choices is None:
            return []
        found: dict[str, None] = {}
        for spec in {(s.model, s.dataset, s.label): s for s in self.runs}.values():
            code = self.choices.code(spec.label, spec.model, spec.dataset)
            if code is not None and code != train_fingerprint(spec):
                found[spec.label] = None
        return list(found)

    def run(self, model: str, dataset: str, label: str, seed: int) -> RunSpec:
        """Return one run by its names.

        Raises:
            ConfigError: the suite has no such run.
        """
        for spec in self.runs:
            if (spec.model, spec.dataset, spec.label, spec.seed) == (model, dataset, label, seed):
                return spec
        raise _no_run(self.name, (model, dataset, label, seed))

    @cached_property
    def hash(self) -> str:
        """Hash of all runs of the suite and their order."""
        return content_hash([[s.model, s.dataset, s.label, s.seed, s.spec_hash] for s in self.runs])

    @cached_property
    def made_models(self) -> dict[str, MadeModel]:
        """The base models that the workflow has to make, by the name of their folder."""
        order = {name: i for i, name in enumerate(self.suite.models)}
        return {
            spec.base_name: spec.model_config
            for spec in sorted(self.runs, key=lambda spec: order[spec.model])
            if isinstance(spec.model_config, MadeModel)
        }


def load_plan(
    name: str, *, root: Path, overrides: dict[str, Any] | None = None, cached: bool = False
) -> Plan:
    """Read a suite by its name, check all of it and expand its grid.

    Args:
        root: folder with ``suites/``, and with ``studies/`` whose packages may hold suites too.
        cached: the plan is for showing the suite's committed tables, with the tuned settings that
            lie beside them.

    Raises:
        ConfigError: one line naming the file, the key and the remedy.
    """
    parts = _load_parts(name, root, overrides, cached=cached)
    return Plan(name, parts.suite, _expand(name, parts), parts.choices)


def load_run(
    name: str, cell: Cell, *, root: Path, overrides: dict[str, Any] | None = None
) -> RunSpec:
    """Read one run of a suite, as :func:`load_plan` gives it, without the other runs of its grid.

    Files on disk are checked for this run only.

    Args:
        cell: model, data set, row and seed.

    Raises:
        ConfigError: one line naming the file, the key and the remedy; or the suite has no such run.
    """
    parts = _load_parts(name, root, overrides, cached=False)
    lists = [(b.models, b.datasets, b.methods, dict(b.replicates)) for b in parts.suite.grid]
    block = next((b for b in lists if all(map(contains, b, cell))), None)
    if block is None:
        raise _no_run(name, cell)
    model, dataset, label, seed = cell
    found = parts.check_disk({model}, {dataset})
    return _checked_row(parts, name, model, dataset, label, found)(seed, block[3][seed])


def _no_run(suite: str, cell: Cell) -> ConfigError:
    return ConfigError(
        f"suite '{suite}' has no run {'/'.join(cell[:3])}/seed{cell[3]}; "
        f"`bridge status --suite {suite}` lists its runs."
    )


def _load_parts(name: str, root: Path, overrides: dict[str, Any] | None, *, cached: bool) -> Parts:
    """The checked parts of a suite, and a grid that names no others."""
    path = suite_file(name, root)
    suite = with_trials(load_suite(path, overrides, root=root), str(path))
    parts = Parts(suite, path, root, cached=cached)
    size = sum(
        len(b.models) * len(b.datasets) * len(b.methods) * len(b.replicates) for b in suite.grid
    )
    if size > MOST_RUNS:
        raise ConfigError(
            f"{path}: grid: it asks for {size:,} runs, more than {MOST_RUNS:,}; split the suite."
        )
    for i, block in enumerate(suite.grid):
        for model in block.models:
            check_known("model", model, suite.models, f"{path}: grid.{i}.models: ")
        for dataset in block.datasets:
            check_known("dataset", dataset, suite.datasets, f"{path}: grid.{i}.datasets: ")
    return parts


def _expand(name: str, parts: Parts) -> tuple[RunSpec, ...]:
    grid = parts.suite.grid
    found = parts.check_disk(
        {model for block in grid for model in block.models},
        {dataset for block in grid for dataset in block.datasets},
    )
    runs: dict[Cell, RunSpec] = {}
    for i, block in enumerate(grid):
        for names in itertools.product(block.models, block.datasets, block.methods):
            row = _checked_row(parts, name, *names, found)
            for seed, world in block.replicates:
                cell = (*names, seed)
                if cell in runs:
                    raise ConfigError(
                        f"{parts.path}: grid.{i}: the run {'/'.join(names)}/seed{seed} is asked "
                        "for twice; remove one."
                    )
                runs[cell] = row(seed, world)
    return tuple(runs.values())


def _checked_row(
    parts: Parts, suite: str, model: str, dataset: str, label: str, found: DiskHashes
) -> Callable[[int, int | None], RunSpec]:
    """What makes the run of each seed and world: all else is checked, and written out, once.

    Raises:
        ConfigError: the parts do not go together.
    """
    base, row = parts.suite.models[model], parts.row(label, model, dataset)
    evaluation = parts.evaluation(dataset)
    family = parts.suite.datasets[dataset].family
    if isinstance(base, TinyModel) and family not in base.families:
        raise ConfigError(
            f"{parts.path}: grid: {model} is trained on '{dataset}' but its pre-training does not "
            f"cover the family '{family}'; add it to models.{model}.families."
        )
    if row.training.audit and not parts.suite.audit:
        raise ConfigError(
            f"{parts.path}: methods.{label}.training.audit: it switches known bugs on, which only "
            "a suite with `audit: true` may do; remove it."
        )
    longest = max(row.training.max_response_tokens, evaluation.max_response_tokens)
    check_context(base, longest, f"{parts.path}: grid: {model} on '{dataset}'")
    if row.targets is not None:
        check_targets(row.targets, base, f"{parts.path}: methods.{label}.options.targets")
    options = parts.options[dataset].model_dump(mode="json")
    make = partial(
        RunSpec,
        suite,
        model,
        dataset,
        label,
        family=family,
        method=row.method,
        method_options=row.options.model_dump(mode="json"),
        training=row.training,
        evaluation=evaluation,
        train_on_benchmarks=parts.suite.train_on_benchmarks,
        checkpoint_hash=found.models.get(model),
        reward=parts.suite.datasets[dataset].reward,
        reward_hash=found.rewards.get(dataset),
        own_code_hash=own_code_hash(row.method, family),
    )

    def run(seed: int, world: int | None) -> RunSpec:
        if world is None:
            return make(seed, model_config=base, dataset_options=options)
        if not isinstance(base, TinyModel) or "world" not in options:
            raise ConfigError(
                f"{parts.path}: grid: worlds are drawn anew for tiny models and generated data "
                f"sets only, not for {model} on '{dataset}'; leave worlds out."
            )
        drawn = base.model_copy(update={"seed": world})
        own = options | {"world": world}
        return make(seed, model_config=drawn, dataset_options=own, world=world)

    return run
