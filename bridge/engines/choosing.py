"""Which weights, engine, reference policy and grader a run uses: the one place that chooses them.

A library is imported only where a run asks for it.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import torch

from bridge.engines.native import NativeEngine
from bridge.machine.processor import has_bfloat16
from bridge.machine.provenance import training_device
from bridge.machine.ranks import Ranks
from bridge.methods.base import Method
from bridge.models.checkpoint import Policy, cast_weights, load_policy
from bridge.models.decoding import LibraryDecoder, decoder_of
from bridge.models.folder import settings
from bridge.models.optimizers import check_installed
from bridge.plan.grid import RunSpec
from bridge.step.protocols import Engine, Grader, ReferencePolicy, Weights
from bridge.step.reference import Reference
from bridge.step.weights import WholeWeights
from bridge.store.settings import TrainingConfig


def base_dtype(training: TrainingConfig, folder: Path) -> torch.dtype:
    """What a run's base checkpoint is loaded in: float32, which is what is trained.

    Frozen weights are held in what the model computes in. Ranks keep pieces in float32, so a file
    of bfloat16 stays as it is until it is cut, where bfloat16 also computes.
    """
    if training.trainable == "lora":
        return compute_dtype(training) or torch.float32
    declared = settings(folder, "config.json")
    stored = declared.get("dtype") or declared.get("torch_dtype")
    cut = training.sharding.stage != "none" and training.precision == "bfloat16"
    return torch.bfloat16 if cut and stored == "bfloat16" else torch.float32


def load_base(training: TrainingConfig, folder: Path, ranks: Ranks) -> Policy:
    """A run's base model. The first rank alone reads the weights; it sends the others theirs."""
    return load_policy(folder, dtype=base_dtype(training, folder), with_weights=ranks.first)


def build_weights(spec: RunSpec, base: Policy, method: Method, ranks: Ranks) -> Weights:
    """The weights that are trained, held whole, in pieces, or frozen with factors beside them."""
    training = spec.training
    check_installed(training.optimizer)
    compute = compute_dtype(training)
    if ranks.first and compute is None and training.precision == "bfloat16":
        print(
            "this processor has no instructions for bfloat16, whose products take it several times "
            "as long as those in float32: this run computes in float32.",
            file=sys.stderr,
        )
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
    if training.factors is not None:
        from bridge.engines.factors import LoraWeights

        assert adapter != "full", "refused when planned"
        return LoraWeights(
            base,
            training.factors,
            adapter=adapter,
            shadow=method.uses_shadow,
            seed=spec.seed,
            frozen_on_host=training.cpu_offload,
        )
    return WholeWeights(
        base,
        adapter=adapter,
        shadow=method.uses_shadow,
        seed=spec.seed,
        compute=compute,
        shadow_on_host=training.cpu_offload and (method.uses_shadow or method.forks_shadow),
    )


def compute_dtype(training: TrainingConfig) -> torch.dtype | None:
    """What the model computes in; None: float32, as the trained weights are.

    That also where bfloat16 is asked for and a processor has no instructions for it. Which it was
    stands in ``done.json``.
    """
    fast = training_device().type != "cpu" or has_bfloat16()
    return torch.bfloat16 if training.precision == "bfloat16" and fast else None


def build_reference(training: TrainingConfig, policy: Weights, base_path: Path) -> ReferencePolicy:
    """A policy that is compared with and never trained."""
    if training.sharding.stage != "none":
        from bridge.engines.sharding.weights import ShardedReference, ShardedWeights

        assert isinstance(policy, ShardedWeights)
        return ShardedReference(policy)
    reference = load_policy(base_path)
    if (compute := compute_dtype(training)) is not None:
        cast_weights(reference.model, compute)
    reference.model.to("cpu" if training.cpu_offload else training_device())
    return Reference(reference, policy)


def build_engine(training: TrainingConfig, policy: Weights, base_path: Path) -> Engine:
    """What samples the rollouts, from the weights as they are at that step."""
    sharded = training.sharding.stage != "none"
    engine: Engine
    if training.engine == "vllm":
        from bridge.engines.vllm import VllmEngine

        engine = VllmEngine(
            base_path,
            end_token_ids=policy.sampler.end_token_ids,
            dtype=policy.sampler.model.dtype,
            kv_cache_gib=training.kv_cache_gib,
            trained=policy,
        )
    else:
        engine = _native_engine(training, policy)
    if not sharded:
        return engine
    from bridge.engines.sharding.rollouts import SharedEngine

    return SharedEngine(engine, policy.ranks)


def _native_engine(training: TrainingConfig, policy: Weights) -> Engine:
    sampler, model = policy.sampler, policy.sampler.model
    draws = partial(
        NativeEngine, model, end_token_ids=sampler.end_token_ids, pad_token_id=sampler.pad_token_id
    )
    if training.sharding.stage != "none":
        from bridge.engines.sharding.rollouts import GatheringEngine

        config = model.config
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        width = config.num_hidden_layers * config.num_key_value_heads * head
        room_bytes = training.kv_cache_gib * 2**30
        return GatheringEngine(
            draws(), policy, room_tokens=int(room_bytes / (2 * width * model.dtype.itemsize))
        )
    if decoder_of(model) is LibraryDecoder:
        print(
            f"{type(model).__name__} is not among the models that rollouts have a fast "
            "forward pass for; they take transformers' own.",
            file=sys.stderr,
        )
    return draws(refresh=policy.refresh)


def shared_grader(grader: Grader, ranks: Ranks) -> Grader:
    """A grader for all ranks: its pool of workers is made for the whole machine."""
    if ranks.size == 1:
        return grader
    from bridge.engines.sharding.rollouts import SharedGrader

    return SharedGrader(grader, ranks)
