"""Bytes of a run's weights, of their gradients and of what the optimisers keep of them."""

from __future__ import annotations

from dataclasses import dataclass

from bridge.jobs.needs.methods import cost_of
from bridge.jobs.needs.shapes import ModelShape
from bridge.methods.base import Method
from bridge.store.settings import TrainingConfig

HELD = 4
"""Bytes of a trained weight, of its gradient and of each of Adam's two moments: float32."""
EIGHT_BIT = 1 + 4 / 256
"""Bytes of such a moment of 8 bits: a scale in float32 for each block of 256."""


@dataclass(frozen=True)
class WeightBytes:
    """Bytes of one process, wherever they lie."""

    model: int
    """The model that computes."""
    frozen: int
    """Weights that factors are merged with, beside the model; 0 where all weights are trained."""
    trained: int
    """What a method trains, beside the model or as the model."""
    moments: int
    """Of all its optimisers that exist at once."""
    one_moment: int
    """Both moments of its largest weight."""
    adapter: int
    adapter_moments: int
    shadow: int
    shadow_moments: int
    reference: int
    gradients: int
    """Those that a step holds while it takes one more backward pass."""
    combined: int
    """Those that it holds while it makes directions of them."""


def width_of(training: TrainingConfig) -> int:
    """Bytes of a weight of the model that computes."""
    return 2 if training.precision == "bfloat16" else HELD


def moment_bytes(training: TrainingConfig) -> float:
    """Of one of Adam's two moments of a weight."""
    return EIGHT_BIT if training.optimizer == "adamw_8bit" else HELD


def trained_parameters(training: TrainingConfig, shape: ModelShape) -> int:
    """Weights that a method trains."""
    lora = training.trainable == "lora"
    return shape.lora_parameters(training.lora_rank) if lora else shape.parameters


def weights_of(training: TrainingConfig, shape: ModelShape, method: Method) -> WeightBytes:
    """The weights of a run of a method."""
    n, c, cost = shape.parameters, width_of(training), cost_of(method)
    trained = trained_parameters(training, shape)
    moments = 2 * moment_bytes(training)
    own = 0
    if method.adapter is not None:
        own = n if method.adapter.full else shape.lora_parameters(method.adapter.rank)
    shadow = trained if method.uses_shadow or method.forks_shadow else 0
    compared = training.kl_coef > 0 or method.uses_reference
    factors = own if method.adapter is not None and not method.adapter.full else 0
    sides = [max(pair) for pair in shape.linears]
    largest = training.lora_rank * max(sides)
    if training.trainable == "full":
        largest = max(shape.embedding_parameters, *(i * o for i, o in shape.linears))
    return WeightBytes(
        model=n * c,
        frozen=0 if training.trainable == "full" else shape.linear_parameters * c,
        trained=trained * HELD,
        moments=int(trained * moments * cost.optimizers_at_once),
        one_moment=int(largest * moments),
        adapter=own * HELD,
        adapter_moments=int(own * moments),
        shadow=shadow * HELD,
        shadow_moments=int(shadow * moments),
        reference=n * c if compared else 0,
        gradients=(trained * cost.gradients_at_once + factors) * HELD,
        combined=(trained * cost.combined_at_once + factors) * HELD,
    )
