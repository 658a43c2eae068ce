"""From a suite to the list of its runs.

Everything that can be refused is refused here, before any job starts: unknown names, unknown or
impossible options of methods and families, and grids that ask for the same run twice. Imports no
torch, so ``snakemake -n`` works on a bare machine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from bridge.methods.registry import load_method, method_names
from bridge.models.folder import prompt_hash
from bridge.plan.config import DatasetConfig, MethodConfig, Suite, load_suite
from bridge.store.plugins import check_known
from bridge.store.records import RunFolder, content_hash, run_folder
from bridge.store.schema import ConfigError, merge, validate
from bridge.store.settings import (
    EvaluationConfig,
    LocalModel,
    ModelConfig,
    TinyModel,
    TrainingConfig,
)
from bridge.tasks.registry import family_names, load_family

_TASK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


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
    suite = load_suite(path, overrides)
    return Plan(name, suite, _expand(name, suite, path))


def suite_file(name: str, root: Path) -> Path:
    """The file of a suite; in ``suites/`` where there is none."""
    studies = sorted(root.glob(f"studies/*/suites/{name}.yaml"))
    path = root / "suites" / f"{name}.yaml"
    return studies[0] if studies and not path.is_file() else path


def _expand(name: str, suite: Suite, path: Path) -> tuple[RunSpec, ...]:
    runs: dict[tuple[str, str, str, int], RunSpec] = {}
    for benchmark in suite.train_on_benchmarks:
        families = {config.family for config in suite.datasets.values()}
        known = [name for family in families for name in load_family(family).benchmark_names()]
        check_known("benchmark", benchmark, known, f"{path}: train_on_benchmarks: ")
    for dataset in sorted({name for block in suite.grid for name in block.datasets}):
        if dataset in suite.datasets:
            _check_dataset(suite.datasets[dataset], f"{path}: datasets.{dataset}")
    prompts = {
        model: prompt_hash(Path(config.path))
        for model, config in suite.models.items()
        if isinstance(config, LocalModel)
    }
    for i, block in enumerate(suite.grid):
        for model in block.models:
            check_known("model", model, suite.models, f"{path}: grid.{i}.models: ")
            for dataset in block.datasets:
                check_known("dataset", dataset, suite.datasets, f"{path}: grid.{i}.datasets: ")
                for label in block.methods:
                    for seed in block.seeds:
                        key = (model, dataset, label, seed)
                        if key in runs:
                            raise ConfigError(
                                f"{path}: grid.{i}: the run {model}/{dataset}/{label}/seed{seed} "
                                "is asked for twice; remove one."
                            )
                        spec = _spec(name, suite, path, *key)
                        runs[key] = replace(spec, prompt_hash=prompts.get(model))
    return tuple(runs.values())


def _check_dataset(config: DatasetConfig, where: str) -> None:
    """Refuse a data set that cannot be read or evaluated later."""
    check_known("problem family", config.family, family_names(), f"{where}.family: ")
    family = load_family(config.family)
    names = family.benchmark_names()
    if not names:
        raise ConfigError(
            f"{where}: the family '{config.family}' names no benchmark, so what is trained on it "
            "could not be evaluated; add one to its benchmark_names."
        )
    odd = [n for n in names if not _TASK_NAME.fullmatch(n)]
    twice = [n for n in names if names.count(n) > 1]
    if odd or twice:
        raise ConfigError(
            f"{where}: the family '{config.family}' names the benchmark '{(odd + twice)[0]}' "
            + ("twice" if twice and not odd else "with characters that lm-eval's task names lack")
            + "; rename it."
        )
    file, _, key = where.partition(": ")
    family.check(validate(family.Options, config.options, file, f"{key}.options"), where)


def _spec(
    name: str, suite: Suite, path: Path, model: str, dataset: str, label: str, seed: int
) -> RunSpec:
    row = suite.methods.get(label, MethodConfig())
    method_name = row.method or label
    check_known("method", method_name, method_names(), f"{path}: methods.{label}: ")
    training_raw = suite.training.model_dump()
    unknown_prefix = f"methods.{label}.training"
    merge(training_raw, row.training)
    training = validate(TrainingConfig, training_raw, path, unknown_prefix)
    options = validate(
        load_method(method_name).Options, row.options, path, f"methods.{label}.options"
    )
    family_name = suite.datasets[dataset].family
    check_known(
        "problem family", family_name, family_names(), f"{path}: datasets.{dataset}.family: "
    )
    family_options: BaseModel = validate(
        load_family(family_name).Options,
        suite.datasets[dataset].options,
        path,
        f"datasets.{dataset}.options",
    )
    base = suite.models[model]
    if isinstance(base, TinyModel):
        for taught in base.families:
            check_known(
                "problem family", taught, family_names(), f"{path}: models.{model}.families: "
            )
        if family_name not in base.families:
            raise ConfigError(
                f"{path}: grid: {model} is trained on '{dataset}' but its pre-training does not "
                f"cover the family '{family_name}'; add it to models.{model}.families."
            )
    method = load_method(method_name)(options, training, seed)
    method.check(f"{path}: methods.{label}")
    return RunSpec(
        suite=name,
        model=model,
        dataset=dataset,
        label=label,
        seed=seed,
        model_config=base,
        family=family_name,
        dataset_options=family_options.model_dump(mode="json"),
        method=method_name,
        method_options=options.model_dump(mode="json"),
        training=training,
        evaluation=suite.evaluation,
        train_on_benchmarks=suite.train_on_benchmarks,
    )
