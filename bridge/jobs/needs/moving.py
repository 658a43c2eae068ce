"""Seconds in which weights are not computed with but moved: updated, sent, gathered, written."""

from __future__ import annotations

from collections.abc import Mapping

from bridge.jobs.needs.devices import Device
from bridge.jobs.needs.rates import (
    ADAM_BYTES,
    BUS_GBS,
    DECODE_UTILISATION,
    DISK_GBS,
    HASH_GBS,
    HOST_ADAM_S,
    HOST_CAST_GBS,
    LINK_GBS,
)
from bridge.jobs.needs.shapes import ModelShape
from bridge.jobs.needs.weights import HELD, moment_bytes, trained_parameters, width_of
from bridge.step.rows import Term
from bridge.store.settings import TrainingConfig


def optimizer_s(
    training: TrainingConfig, shape: ModelShape, device: Device, *, shadowed: bool
) -> float:
    """Seconds of the optimisers in one update.

    Args:
        shadowed: whether the update also moves shadow weights, with ``cpu_offload`` on the host if
            they are those of the whole model.
    """
    sharding, n = training.sharding, trained_parameters(training, shape)
    moved = ADAM_BYTES - 4 * (HELD - moment_bytes(training))  # two moments, read and written
    on_device_s = n * moved / (DECODE_UTILISATION * device.bandwidth_gbs * 1e9)
    base_s = n * HOST_ADAM_S if sharding.offload_optimizer else on_device_s
    shadow_s = 0.0
    if shadowed:
        on_host = training.cpu_offload and sharding.stage == "none" and training.trainable == "full"
        shadow_s = n * HOST_ADAM_S if on_host else base_s
    return (base_s + shadow_s) / sharding.ranks


def offload_s(
    training: TrainingConfig, shape: ModelShape, passes: Mapping[Term, int], *, shadowed: bool
) -> float:
    """Seconds of one update in which ``cpu_offload`` moves weights over the bus.

    An optimiser's two moments come and go at its step. In one process the reference comes and goes
    for each gradient of the RL term; the shadow is rounded on the host and comes, its gradient goes
    back; frozen weights come whenever factors are merged with them. With several ranks each moves
    its part, and the shadow's moments like the others, as those of factors do.
    """
    if not training.cpu_offload or training.sharding.offload_optimizer:
        return 0.0
    alone, lora = training.sharding.stage == "none", training.trainable == "lora"
    n, width = trained_parameters(training, shape), width_of(training)
    moments = n * 4 * moment_bytes(training)
    sent, cast_s = moments, 0.0
    if alone and training.kl_coef > 0:
        sent += shape.parameters * 2 * width * passes.get("rl", 0)
    if lora:
        sent += shape.linear_parameters * width * (3 if shadowed else 1)
    if shadowed and alone and not lora:
        sent += n * (width + HELD)
        cast_s = n * HELD / (HOST_CAST_GBS * 1e9) if width != HELD else 0.0
    elif shadowed:
        sent += moments
    return sent / (BUS_GBS * 1e9) / training.sharding.ranks + cast_s


def gather_s(training: TrainingConfig, weight_bytes: float, tokens: float) -> float:
    """Seconds of a step in which the ranks send each other weights and gradients.

    With ``zero3`` weights are gathered forward and backward and gradients are reduced, for each
    micro-batch; with ``zero2`` gradients alone.

    Args:
        weight_bytes: of the whole model that computes.
        tokens: that go through backward passes, of all ranks.
    """
    sharding = training.sharding
    if sharding.ranks == 1:
        return 0.0
    passes = tokens / sharding.ranks / (training.micro_batch_tokens or tokens)
    sent = {"none": 1, "zero2": 1, "zero3": 3}[sharding.stage] * weight_bytes
    return max(1.0, passes) * sent / (LINK_GBS * 1e9)


def checkpoint_s(state_bytes: float, policy_bytes: float, n_steps: int, every: int) -> float:
    """Seconds in which a run writes its checkpoints and its policy: brought to the host, written
    and synced, hashed."""
    if n_steps == 0:
        return 0.0
    per_gb_s = 1 / BUS_GBS + 1 / DISK_GBS + 1 / HASH_GBS
    return (n_steps // every * state_bytes + policy_bytes) / 1e9 * per_gb_s
