"""Gradients as vectors: one flat tensor per parameter group, so update rules read as written."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from bridge.machine.ranks import ALONE, Ranks


@dataclass(frozen=True)
class Gradient:
    """A direction in parameter space: group name -> flat tensor [parameters of the group].

    Where several ranks train one run, a tensor is this rank's part of the flat vector. Sums and
    multiples are made part by part; norms and inner products are of the whole.
    """

    flat: dict[str, Tensor]
    spare: bool = False
    """Whether nobody else needs these tensors, so that they may be written to."""
    ranks: Ranks = ALONE

    def __add__(self, other: Gradient) -> Gradient:
        return replace(self, flat={g: v + other.flat[g] for g, v in self.flat.items()}, spare=False)

    def __sub__(self, other: Gradient) -> Gradient:
        return replace(self, flat={g: v - other.flat[g] for g, v in self.flat.items()}, spare=False)

    def __rmul__(self, factor: float) -> Gradient:
        return replace(self, flat={g: factor * v for g, v in self.flat.items()}, spare=False)

    def only(self, group: str) -> Gradient:
        """The part of one group, so that sums over the others need not be made."""
        return replace(self, flat={group: self.flat[group]}, spare=False)

    def take(self, group: str) -> Gradient:
        """The part of one group, which is no longer part of this one."""
        return replace(self, flat={group: self.flat.pop(group)}, spare=True)

    def copy(self, group: str) -> Gradient:
        """A copy of the part of one group."""
        return replace(self, flat={group: self.flat[group].clone()}, spare=True)

    def norm(self, group: str) -> float:
        """Euclidean norm of one group's part."""
        return self.ranks.norm(self.flat[group])

    def cosine(self, other: Gradient, group: str) -> float | None:
        """Cosine of the angle between one group's parts; None where one of them is zero."""
        norms = self.norm(group) * other.norm(group)
        dot = self.ranks.dot(self.flat[group], other.flat[group])
        return dot / norms if norms > 0 else None


def combined(*terms: tuple[float, Gradient]) -> Gradient:
    """The weighted sum of spare gradients, made in their memory: no further copy of the weights'
    size exists meanwhile."""
    total: dict[str, Tensor] = {}
    for factor, gradient in terms:
        assert gradient.spare, "the memory of this gradient belongs to somebody else"
        for group, flat in gradient.flat.items():
            flat.mul_(factor)
            total[group] = total[group].add_(flat) if group in total else flat
    return replace(terms[0][1], flat=total)


def put_gradient(parameters: list[nn.Parameter], flat: Tensor) -> None:
    """Set ``.grad`` of the parameters from one flat tensor."""
    position = 0
    for parameter in parameters:
        size = parameter.numel()
        part = flat[position : position + size].view_as(parameter)
        parameter.grad = part.to(parameter.device)
        position += size
