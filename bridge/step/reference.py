"""The policy of the KL term: scored, never trained, and set to the trained one now and then."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from bridge.models.checkpoint import Policy
from bridge.step.protocols import Score, Weights
from bridge.step.scoring import next_token_logprobs


class Reference:
    """A second whole model.

    Args:
        policy: the model, on the device where it waits to be asked; taken over.
        trained: the policy that it is compared with, and scored beside.
    """

    def __init__(self, policy: Policy, trained: Weights) -> None:
        self.model = policy.model
        self._trained = trained

    @contextlib.contextmanager
    def active(self) -> Iterator[Score]:
        """Inside, the model is on the device; yields what scores under it."""
        home = self.model.device
        self.model.to(self._trained.sampler.model.device)
        yield partial(next_token_logprobs, self.model)
        self.model.to(home)

    @torch.no_grad()
    def follow(self, rate: float = 1.0) -> None:
        """Go a share of the way to the trained policy as it is now; 1: become it."""
        with self._trained.whole_model():
            trained = self._trained.sampler.model.parameters()
            for new, old in zip(trained, self.model.parameters(), strict=True):
                old.copy_(new if rate == 1.0 else old.lerp(new.to(old.device), rate))

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """All weights with their names."""
        return ((name, p.detach()) for name, p in self.model.named_parameters())

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take back what :meth:`state` told."""
        for name, parameter in self.model.named_parameters():
            parameter.copy_(weights[name])
