"""Where an optimiser's moments are while it makes no step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

_HOST = torch.device("cpu")


@contextlib.contextmanager
def moments_here(optimizer: torch.optim.Optimizer, *, waiting: bool) -> Iterator[None]:
    """Inside, an optimiser's moments are where its weights are.

    Args:
        waiting: whether they wait in the host's memory before and after.
    """
    if waiting:
        for parameter, kept in optimizer.state.items():
            _move(kept, parameter.device)
    yield
    if waiting:
        send_to_host(optimizer)


def send_to_host(optimizer: torch.optim.Optimizer, host: torch.device = _HOST) -> None:
    """Let an optimiser's moments wait in the host's memory."""
    for kept in optimizer.state.values():
        _move(kept, host)


def _move(kept: dict[str, torch.Tensor], device: torch.device) -> None:
    for name, value in kept.items():
        if value.dim() > 0:  # the number of the step stays: a fused step reads it where it runs
            kept[name] = value.to(device)
