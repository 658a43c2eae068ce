"""A run's questions, refused before the first step where they cannot be trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bridge.plan.grid import RunSpec
from bridge.store.settings import PackageModel
from bridge.tasks.base import Dataset, Problem, WithOwnGolds, check_disjoint, check_problems
from bridge.tasks.registry import load_family


def checked_dataset(spec: RunSpec) -> Dataset:
    """The run's data set, refused where it cannot be trained on."""
    family = load_family(spec.family)
    options = family.Options.model_validate(spec.dataset_options)
    dataset = family.dataset(options)
    check_problems(f"{spec.dataset} train", dataset.train)
    check_problems(f"{spec.dataset} validation", dataset.validation)
    check_disjoint(
        f"{spec.dataset} train", dataset.train, f"{spec.dataset} validation", dataset.validation
    )
    warm = spec.model_config.warm_up if isinstance(spec.model_config, PackageModel) else None
    taught = () if warm is None else _family_dataset(warm.family, warm.options).demonstrations
    of_warm_up = f"the warm-up of {spec.model}"
    check_disjoint(of_warm_up, taught, f"{spec.dataset} train", dataset.train)
    check_disjoint(of_warm_up, taught, f"{spec.dataset} validation", dataset.validation)
    for name in family.benchmark_names(options):
        questions = family.benchmark(name, options)
        check_problems(name, questions)
        check_disjoint(of_warm_up, taught, name, questions)
        check_disjoint(f"{spec.dataset} validation", dataset.validation, name, questions)
        if name not in spec.train_on_benchmarks:
            check_disjoint(f"{spec.dataset} train", dataset.train, name, questions)
        _check_golds(spec, name, questions)
    _check_golds(spec, f"{spec.dataset} train", dataset.train)
    _check_golds(spec, f"{spec.dataset} validation", dataset.validation)
    return dataset


def _family_dataset(name: str, options: dict[str, Any]) -> Dataset:
    family = load_family(name)
    return family.dataset(family.Options.model_validate(options))


def _check_golds(spec: RunSpec, name: str, problems: Sequence[Problem]) -> None:
    """Gold answers that nobody has read before; a reward function makes of them what it likes."""
    family = load_family(spec.family)
    if spec.reward is None and isinstance(family, WithOwnGolds):
        family.check_golds(name, problems)
