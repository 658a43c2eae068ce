"""AdamW in the precision that a run asks for, and where its moments are while it makes no step."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal

import torch
from torch import nn

from bridge.models.checkpoint import CheckpointError

_HOST = torch.device("cpu")

Kind = Literal["adamw", "adamw_8bit"]


def check_installed(kind: Kind) -> None:
    """Refuse an optimiser whose package is missing, before the first step.

    Raises:
        CheckpointError: one sentence.
    """
    if kind == "adamw_8bit" and find_spec("bitsandbytes") is None:
        raise CheckpointError(
            "training.optimizer: adamw_8bit needs bitsandbytes, which is not installed; "
            "pip install 'bridge-harness[memory]', or set optimizer: adamw."
        )


def make_adamw(
    kind: Kind,
    parameters: Sequence[nn.Parameter],
    *,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
) -> torch.optim.Optimizer:
    """AdamW with decoupled weight decay. Of 8 bits, a weight's moments are in blocks of 256 with a
    scale each (arXiv 2110.02861); weights of fewer than 4096 numbers keep float32."""
    if kind == "adamw_8bit":
        # It warns that products of 4 bits, which nobody asks for, have no kernel on a processor.
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        from bitsandbytes.optim import AdamW8bit

        eight = AdamW8bit(parameters, lr=lr, betas=betas, weight_decay=weight_decay)
        # Else its first step brings all moments to the device, those that wait on the host too.
        eight.initialized = True
        made: torch.optim.Optimizer = eight
        return made
    return torch.optim.AdamW(
        parameters,
        lr=lr,
        betas=betas,
        weight_decay=weight_decay,
        fused=True,  # a quarter of the time, and no copies of all weights at once
    )


def make_step(optimizer: torch.optim.Optimizer, *, waiting: bool) -> None:
    """One step of an optimiser.

    Args:
        waiting: whether the moments are in the host's memory before and after. They then come and
            go weight by weight, so the device holds those of one at a time.
    """
    if not waiting:
        optimizer.step()
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    gradients = [p.grad for p in parameters]
    for parameter in parameters:
        parameter.grad = None  # the step passes over these
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
        _move(optimizer, parameter, parameter.device)
        optimizer.step()
        _move(optimizer, parameter, _HOST)
        parameter.grad = None


def send_to_host(optimizer: torch.optim.Optimizer) -> None:
    """Let an optimiser's moments wait in the host's memory."""
    for parameter in optimizer.state:
        _move(optimizer, parameter, _HOST)


def _move(optimizer: torch.optim.Optimizer, parameter: torch.Tensor, device: torch.device) -> None:
    kept = optimizer.state.get(parameter, {})
    for name, value in kept.items():
        # The number of the step stays: a fused step reads it where it runs.
        if isinstance(value, torch.Tensor) and value.dim() > 0:
            kept[name] = value.to(device)
