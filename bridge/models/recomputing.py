"""Activation checkpointing: a layer keeps its input only, and runs again in the backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from bridge.models.checkpoint import CheckpointError


@contextlib.contextmanager
def recomputing(model: nn.Module) -> Iterator[None]:
    """Inside, the decoder layers of a model of transformers are checkpointed.

    The second run of a layer is the same computation, so no number changes. transformers does this
    for layers in training mode only; that flag is set on the layers alone, not on what is inside
    them, so dropout stays off as everywhere here.

    Raises:
        CheckpointError: the architecture has no layer that can be checkpointed.
    """
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise CheckpointError(
            f"{type(model).__name__} has no layers that can be checkpointed; set "
            "activation_checkpointing: false."
        )
    # Nothing random runs inside a layer, so there is no generator state to keep either.
    again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    for layer in layers:
        layer.gradient_checkpointing, layer.training = True, True
        layer._gradient_checkpointing_func = again
    try:
        yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing, layer.training = False, False
