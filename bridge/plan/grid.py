"""From a suite to the list of its runs.

Everything that can be refused is refused here, before any job starts: unknown names, unknown or
impossible options of methods and families, and grids that ask for the same run twice. Imports no
torch, so ``snakemake -n`` works on a bare machine.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bridge.plan.config import Suite, load_suite, suite_file
from bridge.plan.parts import Parts
from bridge.plan.targets import check_targets
from bridge.store.plugins import check_known
from bridge.store.records import RunFolder, content_hash, run_folder
from bridge.store.schema import ConfigError
from bridge.store.settings import EvaluationConfig, ModelConfig, TinyModel, TrainingConfig

MOST_RUNS = 10_000
"""Of one suite."""


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
    train_on_benchmarks: tuple[str, ...] = ()
    """A permission that changes no number, so it is in no hash."""
    prompt_hash: str | None = None
    """Of the files of a local checkpoint that decide prompts and the end of answers; other sources
    are pinned by their own settings."""

    def as_dict(self) -> dict[str, Any]:
        """The merged configuration as plain JSON values, as ``spec.json`` holds it."""
        return {
            "suite": self.suite,
            "model": self.model,
            "dataset": self.dataset,
            "label": self.label,
            "seed": self.seed,
            "model_config": self.model_config.model_dump(mode="json"),
            "family": self.family,
            "dataset_options": self.dataset_options,
            "method": self.method,
            "method_options": self.method_options,
            "training": self.training.model_dump(mode="json"),
            "evaluation": self.evaluation.model_dump(mode="json"),
            "train_on_benchmarks": list(self.train_on_benchmarks),
            "prompt_hash": self.prompt_hash,
            "train_hash": self.train_hash,
            "spec_hash": self.spec_hash,
        }

    @property
    def train_hash(self) -> str:
        """Hash of all that can change the trained policy. Suite and row name cannot."""
        return content_hash(
            {
                "seed": self.seed,
                "model": self.model_config.model_dump(mode="json"),
                "family": self.family,
                "dataset": self.dataset_options,
                "method": self.method,
                "options": self.method_options,
                "training": self.training.hashed,
                **({} if self.prompt_hash is None else {"prompt": self.prompt_hash}),
            }
        )

    @property
    def spec_hash(self) -> str:
        """Hash of all that can change a score: training and evaluation."""
        return content_hash(
            {"train": self.train_hash, "evaluation": self.evaluation.model_dump(mode="json")}
        )

    def folder(self, results: Path) -> RunFolder:
        """The run's folder below the results folder."""
        return run_folder(results, self.suite, self.model, self.dataset, self.label, self.seed)


@dataclass(frozen=True)
class Plan:
    """A checked suite."""

    name: str
    suite: Suite
    runs: tuple[RunSpec, ...]

    def run(self, model: str, dataset: str, label: str, seed: int) -> RunSpec:
        """Return one run by its names.

        Raises:
            ConfigError: the suite has no such run.
        """
        for spec in self.runs:
            if (spec.model, spec.dataset, spec.label, spec.seed) == (model, dataset, label, seed):
                return spec
        raise ConfigError(
            f"suite '{self.name}' has no run {model}/{dataset}/{label}/seed{seed}; "
            f"`bridge status --suite {self.name}` lists its runs."
        )

    @property
    def hash(self) -> str:
        """Hash of all runs of the suite and their order."""
        return content_hash([[s.model, s.dataset, s.label, s.seed, s.spec_hash] for s in self.runs])

    @property
    def tiny_models(self) -> dict[str, TinyModel]:
        """The base models that the workflow has to make."""
        used = {spec.model for spec in self.runs}
        return {
            name: model
            for name, model in self.suite.models.items()
            if name in used and isinstance(model, TinyModel)
        }


def load_plan(name: str, *, root: Path, overrides: dict[str, Any] | None = None) -> Plan:
    """Read a suite by its name, check all of it and expand its grid.

    Args:
        root: folder with ``suites/``, and with ``studies/`` whose packages may hold suites too.

    Raises:
        ConfigError: one line naming the file, the key and the remedy.
    """
    path = suite_file(name, root)
    suite = load_suite(path, overrides, root=root)
    return Plan(name, suite, _expand(name, suite, path))


def _expand(name: str, suite: Suite, path: Path) -> tuple[RunSpec, ...]:
    parts = Parts(suite, path)
    size = sum(len(b.models) * len(b.datasets) * len(b.methods) * len(b.seeds) for b in suite.grid)
    if size > MOST_RUNS:
        raise ConfigError(
            f"{path}: grid: it asks for {size:,} runs, more than {MOST_RUNS:,}; split the suite."
        )
    for i, block in enumerate(suite.grid):
        for model in block.models:
            check_known("model", model, suite.models, f"{path}: grid.{i}.models: ")
        for dataset in block.datasets:
            check_known("dataset", dataset, suite.datasets, f"{path}: grid.{i}.datasets: ")
    prompts = parts.check_disk()
    runs: dict[tuple[str, str, str, int], RunSpec] = {}
    for i, block in enumerate(suite.grid):
        for key in itertools.product(block.models, block.datasets, block.methods, block.seeds):
            if key in runs:
                raise ConfigError(
                    f"{path}: grid.{i}: the run {'/'.join(key[:3])}/seed{key[3]} is asked for "
                    "twice; remove one."
                )
            runs[key] = replace(_run(parts, name, *key), prompt_hash=prompts.get(key[0]))
    return tuple(runs.values())


def _run(parts: Parts, suite: str, model: str, dataset: str, label: str, seed: int) -> RunSpec:
    """One run of the grid.

    Raises:
        ConfigError: its parts do not go together.
    """
    base, row = parts.suite.models[model], parts.rows[label]
    family = parts.suite.datasets[dataset].family
    if isinstance(base, TinyModel) and family not in base.families:
        raise ConfigError(
            f"{parts.path}: grid: {model} is trained on '{dataset}' but its pre-training does not "
            f"cover the family '{family}'; add it to models.{model}.families."
        )
    if row.targets is not None:
        check_targets(row.targets, base, f"{parts.path}: methods.{label}.options.targets")
    return RunSpec(
        suite=suite,
        model=model,
        dataset=dataset,
        label=label,
        seed=seed,
        model_config=base,
        family=family,
        dataset_options=parts.options[dataset].model_dump(mode="json"),
        method=row.method,
        method_options=row.options.model_dump(mode="json"),
        training=row.training,
        evaluation=parts.suite.evaluation,
        train_on_benchmarks=parts.suite.train_on_benchmarks,
    )
