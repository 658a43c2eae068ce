"""A run, put together from its specification: everything that its steps use."""

from __future__ import annotations

from pathlib import Path

from bridge.engines.choosing import (
    build_engine,
    build_reference,
    build_weights,
    load_base,
    shared_grader,
)
from bridge.machine.ranks import Ranks
from bridge.machine.telemetry import Stopwatch
from bridge.methods.registry import load_method
from bridge.models.adapting import prepare_hub_model, prepare_local_model
from bridge.plan.grid import RunSpec
from bridge.plan.questions import checked_dataset
from bridge.run.experience import Collector
from bridge.run.probes import Probes
from bridge.run.state import Run
from bridge.run.streams import check_lengths
from bridge.step.protocols import Grader
from bridge.step.trainer import Trainer
from bridge.store.records import RunFolder, base_folder
from bridge.store.settings import HubModel, LocalModel


def build_run(
    spec: RunSpec, folder: RunFolder, grader: Grader, base_path: Path, ranks: Ranks
) -> Run:
    """Everything that a run needs, before its first step.

    Raises:
        ProblemError: the data set cannot be trained on; one sentence.
    """
    dataset = checked_dataset(spec)
    method_class = load_method(spec.method)
    method = method_class(
        method_class.Options.model_validate(spec.method_options), spec.training, spec.seed
    )
    base = load_base(spec.training, base_path, ranks)
    check_lengths(
        base,
        (*dataset.train, *dataset.validation),
        max_response_tokens=spec.training.max_response_tokens,
        context_tokens=base.model.config.max_position_embeddings,
        with_prefixes=method.gives_prefixes,
    )
    method.policy, method.grader = base, shared_grader(grader, ranks)
    policy = build_weights(spec, base, method, ranks)
    has_reference = spec.training.kl_coef > 0 or method.uses_reference
    reference = build_reference(spec.training, policy, base_path) if has_reference else None
    trainer = Trainer(policy, spec.training, reference, method.token_weight, method.divergence)
    method.before_run(trainer, dataset, folder)
    stopwatch = Stopwatch()
    collector = Collector(
        policy.sampler,
        build_engine(spec.training, policy, base_path),
        method.grader,
        spec.training,
        seed=spec.seed,
        stopwatch=stopwatch,
    )
    probes = Probes(policy, trainer, collector, dataset, method)
    return Run(spec, folder, method, dataset, policy, trainer, collector, probes, stopwatch)


def base_of(spec: RunSpec, results: Path) -> Path:
    """Folder of the run's base model."""
    model = spec.model_config
    folder = base_folder(results, spec.suite, spec.base_name)
    if isinstance(model, LocalModel):
        return prepare_local_model(model, folder)
    return prepare_hub_model(model, folder) if isinstance(model, HubModel) else folder
