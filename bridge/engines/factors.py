"""A policy whose dense weights are frozen: what a method trains are LoRA factors beside them.

The groups are those of :class:`bridge.step.weights.WholeWeights`, so no method knows the
difference. ``base`` are the factors of theta on every linear layer of the decoder; ``adapter`` (w
of BRIDGE) and ``shadow`` (theta-hat, of the shape of theta) are further factors on the same layers:

    W = W0 + s B A + s_w B_w A_w

As there, everything runs on a plain model with the merged weights, so one backward pass gives the
gradients of all groups: dJ/dB = s (dJ/dW) A^T and dJ/dA = s B^T (dJ/dW), and what samples is what
is trained. dJ/dW is made one layer at a time, turned into the factors' gradients in their own
precision and freed. The frozen weights are in the dtype that the model computes in, and have
neither gradients nor moments; of those that no factor changes there is one copy, the model's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bridge.models.checkpoint import Policy
from bridge.step.weights import (
    ADAPTER,
    BASE,
    FROZEN,
    LORA,
    SHADOW,
    WholeWeights,
    lora_layers,
    plain_name,
    with_lora,
)
from bridge.store.seeds import derive_seed

Shape = tuple[int, int, str]
"""Rank, alpha and target layers."""


class Pair(NamedTuple):
    """The two factors of one weight; also their gradients, which have no scale."""

    weight: str
    """Plain name of the weight [outputs, inputs]."""
    scale: float
    down: Tensor
    """A, [rank, inputs]."""
    up: Tensor
    """B, [outputs, rank]."""

    @property
    def product(self) -> Tensor:
        """What is added to the weight."""
        return self.scale * (self.up @ self.down)


class LoraWeights(WholeWeights):
    """Frozen weights, the factors that are trained, and what can be done with them.

    Args:
        policy: the base checkpoint in the dtype that it computes in; taken over.
        factors: shape of theta's factors, which start at zero.
        adapter: shape of w's, likewise; or None.
        shadow: whether to keep a second set of theta's factors.
        seed: decides the initial factors.
        frozen_on_host: keep the frozen weights in the host's memory and merge from there.
    """

    def __init__(
        self,
        policy: Policy,
        factors: Shape,
        *,
        adapter: Shape | None = None,
        shadow: bool = False,
        seed: int = 0,
        frozen_on_host: bool = False,
    ) -> None:
        self.sampler = policy
        self.names, self.parameters = {ADAPTER: []}, {ADAPTER: []}
        self._laid: dict[str, list[tuple[str, float]]] = {ADAPTER: []}
        """Plain name of the weight and scale of each pair of factors."""
        self._lay(BASE, factors, derive_seed("factors", seed))
        if adapter is not None:
            self._lay(ADAPTER, adapter, seed)
        self._laid[SHADOW] = self._laid[BASE]
        adapted = {name for laid in self._laid.values() for name, _ in laid}
        self._frozen: dict[str, Tensor] = {}
        for name, parameter in policy.model.named_parameters():
            parameter.requires_grad_(name in adapted)
            if name in adapted:
                home = torch.device("cpu") if frozen_on_host else parameter.device
                self._frozen[name] = parameter.detach().to(home, copy=True)
        self._shadow_on_host = False
        if shadow:
            self._fork()
        self._merges, self._stale = True, False
        self._flats: dict[str, Tensor] = {}
        self._places: dict[Tensor, list[tuple[Pair, Pair]]] = {}
        """Factors of each plain weight, with the places of their gradients."""

    def _lay(self, group: str, shape: Shape, seed: int) -> None:
        """Draw the factors of a group, with peft, and leave the model as it was."""
        wrapped = with_lora(self.sampler.model, shape, seed)
        laid, names, factors = [], [], list[nn.Parameter]()
        for name, layer in lora_layers(wrapped):
            laid.append((f"{plain_name(name)}.weight", layer.scaling[LORA]))
            names += [f"{plain_name(name)}.lora_{side}" for side in "AB"]
            factors += [layer.lora_A[LORA].weight, layer.lora_B[LORA].weight]
        wrapped.unload()
        self._laid[group], self.names[group], self.parameters[group] = laid, names, factors

    @property
    def sizes(self) -> dict[str, int]:
        """Parameters of each group, and of the model."""
        return {**super().sizes, FROZEN: sum(p.numel() for p in self.sampler.model.parameters())}

    def _pairs(self, group: str, parts: Sequence[Tensor] | None = None) -> Iterator[Pair]:
        """The factors of a group, or ``parts`` of their shapes."""
        held: Sequence[Tensor] = self.parameters[group] if parts is None else parts
        for (name, scale), down, up in zip(self._laid[group], held[::2], held[1::2], strict=True):
            yield Pair(name, scale, down, up)

    def _deltas(self) -> Iterator[tuple[str, Tensor]]:
        yield from ((pair.weight, pair.product) for pair in self._pairs(ADAPTER))

    @torch.no_grad()
    def refresh(self) -> None:
        """Write the merged weights into the plain model, if factors have changed; they are summed
        in the factors' precision and rounded once."""
        if not self._stale:
            return
        added: dict[str, list[Pair]] = {}
        for pair in (*self._pairs(BASE), *self._pairs(ADAPTER)):
            added.setdefault(pair.weight, []).append(pair)
        target = dict(self.sampler.model.named_parameters())
        for name, pairs in added.items():
            total = self._frozen[name].to(pairs[0].down, copy=True)
            for pair in pairs:
                total.addmm_(pair.up, pair.down, alpha=pair.scale)
            target[name].copy_(total)
        self._stale = False

    def _begin_gradient(self) -> None:
        """Make room for the gradients of all factors."""
        plain = dict(self.sampler.model.named_parameters())
        for group in (BASE, ADAPTER):
            held = self.parameters[group]
            if not held:
                continue
            sizes = [p.numel() for p in held]
            flat = held[0].new_zeros(sum(sizes))
            parts = [part.view_as(p) for part, p in zip(flat.split(sizes), held, strict=True)]
            self._flats[group] = flat.detach()
            for factors, sums in zip(self._pairs(group), self._pairs(group, parts), strict=True):
                self._places.setdefault(plain[factors.weight], []).append((factors, sums))

    @torch.no_grad()
    def _collect(self, parameter: Tensor) -> None:
        """Turn a weight's gradient into what it is for its factors, and free it."""
        assert parameter.grad is not None
        dense, parameter.grad = parameter.grad, None
        if not self._places:
            self._begin_gradient()
        for factors, sums in self._places[parameter]:
            dense = dense.to(factors.down.dtype)
            sums.down.addmm_(factors.up.T, dense, alpha=factors.scale)
            sums.up.addmm_(dense, factors.down.T, alpha=factors.scale)

    def take_gradient(self) -> dict[str, Tensor]:
        """Return the accumulated gradient, flat per group, and clear it."""
        if not self._places:
            self._begin_gradient()
        for parameter in self.sampler.model.parameters():
            if parameter.grad is not None:
                self._collect(parameter)
        flats, self._flats, self._places = self._flats, {}, {}
        return flats

    @torch.no_grad()
    def shadow_distance(self) -> float:
        """Euclidean distance between what base and shadow add to the weights."""
        pairs = zip(self._pairs(BASE), self._pairs(SHADOW), strict=True)
        return float(sum(((p.product - s.product) ** 2).sum() for p, s in pairs)) ** 0.5
