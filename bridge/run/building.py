"""A run, put together from its specification: the one place that knows which engines there are."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from bridge.machine.provenance import training_device
from bridge.machine.telemetry import Stopwatch
from bridge.methods.base import Method
from bridge.methods.registry import load_method
from bridge.models.adapting import prepare_hub_model, prepare_local_model
from bridge.models.checkpoint import Policy, cast_weights, load_policy
from bridge.plan.grid import RunSpec
from bridge.run.experience import Collector
from bridge.run.probes import Probes
from bridge.run.state import Run
from bridge.run.streams import check_lengths
from bridge.step.protocols import Engine, Grader, ReferencePolicy, Weights
from bridge.machine.ranks import Ranks
from bridge.step.reference import Reference
from bridge.step.sampler import NativeEngine
from bridge.step.trainer import Trainer
from bridge.step.weights import WholeWeights
from bridge.store.records import RunFolder, base_folder
from bridge.store.settings import HubModel, LocalModel, TrainingConfig
from bridge.tasks.base import Dataset, check_disjoint, check_problems
from bridge.tasks.registry import load_family


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
    base = load_policy(base_path)
    check_lengths(
        base,
        (*dataset.train, *dataset.validation),
        max_response_tokens=spec.training.max_response_tokens,
        context_tokens=base.model.config.max_position_embeddings,
    )
    policy = build_weights(spec, base, method, ranks)
    reference = _reference(spec.training, policy, base_path) if spec.training.kl_coef > 0 else None
    trainer = Trainer(policy, spec.training, reference, method.token_weight)
    stopwatch = Stopwatch()
    collector = Collector(
        policy.sampler,
        _engine(spec.training, policy, base_path),
        _shared(grader, ranks),
        spec.training,
        seed=spec.seed,
        stopwatch=stopwatch,
    )
    probes = Probes(policy, trainer, collector, dataset, spec.training)
    return Run(spec, folder, method, dataset, policy, trainer, collector, probes, stopwatch)


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
    for name in family.benchmark_names():
        questions = family.benchmark(name, options)
        check_problems(name, questions)
        check_disjoint(f"{spec.dataset} validation", dataset.validation, name, questions)
        if name not in spec.train_on_benchmarks:
            check_disjoint(f"{spec.dataset} train", dataset.train, name, questions)
    return dataset


def build_weights(spec: RunSpec, base: Policy, method: Method, ranks: Ranks) -> Weights:
    """The weights that are trained, held whole or in pieces."""
    training = spec.training
    compute = torch.bfloat16 if training.precision == "bfloat16" else None
    adapter = None if method.adapter is None else method.adapter.shape
    if training.sharding.stage != "none":
        from bridge.engines.sharding.weights import ShardedWeights

        return ShardedWeights(
            base,
            training.sharding,
            ranks,
            adapter=adapter,
            shadow=method.uses_shadow,
            seed=spec.seed,
            compute=compute or torch.float32,
        )
    base.model.to(training_device())
    return WholeWeights(
        base,
        adapter=adapter,
        shadow=method.uses_shadow,
        seed=spec.seed,
        compute=compute,
        shadow_on_host=training.cpu_offload and (method.uses_shadow or method.forks_shadow),
    )


def _reference(training: TrainingConfig, policy: Weights, base_path: Path) -> ReferencePolicy:
    """The policy of the KL term, which is never trained."""
    if training.sharding.stage != "none":
        from bridge.engines.sharding.weights import ShardedReference, ShardedWeights

        assert isinstance(policy, ShardedWeights)
        return ShardedReference(policy)
    reference = load_policy(base_path)
    if training.precision == "bfloat16":
        cast_weights(reference.model, torch.bfloat16)
    reference.model.to("cpu" if training.cpu_offload else training_device())
    return Reference(reference, policy)


def _engine(training: TrainingConfig, policy: Weights, base_path: Path) -> Engine:
    sampler = policy.sampler
    if training.sharding.stage != "none":
        from bridge.engines.sharding.rollouts import SharedEngine

        native = NativeEngine(
            sampler.model, end_token_ids=sampler.end_token_ids, pad_token_id=sampler.pad_token_id
        )
        return SharedEngine(native, policy)
    if training.engine == "vllm":
        from bridge.engines.vllm import VllmEngine

        return VllmEngine(
            base_path,
            end_token_ids=sampler.end_token_ids,
            dtype=sampler.model.dtype,
            kv_cache_gib=training.kv_cache_gib,
            weights=partial(_current, policy),
        )
    return NativeEngine(
        sampler.model,
        end_token_ids=sampler.end_token_ids,
        pad_token_id=sampler.pad_token_id,
        refresh=policy.refresh,
    )


def _current(policy: Weights) -> Iterator[tuple[str, Tensor]]:
    """Names and values of the model's weights as they are now."""
    policy.refresh()
    return ((name, p.detach()) for name, p in policy.sampler.model.named_parameters())


def _shared(grader: Grader, ranks: Ranks) -> Grader:
    """A grader for all ranks: its pool of workers is made for the whole machine."""
    if ranks.size == 1:
        return grader
    from bridge.engines.sharding.rollouts import SharedGrader

    return SharedGrader(grader, ranks)


def base_of(spec: RunSpec, results: Path) -> Path:
    """Folder of the run's base model."""
    model = spec.model_config
    folder = base_folder(results, spec.suite, spec.model)
    if isinstance(model, LocalModel):
        return prepare_local_model(model, folder)
    return prepare_hub_model(model, folder) if isinstance(model, HubModel) else folder
