"""Gradients as vectors: one flat tensor per parameter group, so update rules read as written."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Gradient:
    """A direction in parameter space: group name -> flat tensor [parameters of the group]."""

    flat: dict[str, Tensor]
    spare: bool = False
    """Whether nobody else needs these tensors, so that they may be written to."""

    def __add__(self, other: Gradient) -> Gradient:
        return Gradient({g: v + other.flat[g] for g, v in self.flat.items()})

    def __sub__(self, other: Gradient) -> Gradient:
        return Gradient({g: v - other.flat[g] for g, v in self.flat.items()})

    def __rmul__(self, factor: float) -> Gradient:
        return Gradient({g: factor * v for g, v in self.flat.items()})

    def only(self, group: str) -> Gradient:
        """The part of one group, so that sums over the others need not be made."""
        return Gradient({group: self.flat[group]})

    def take(self, group: str) -> Gradient:
        """The part of one group, which is no longer part of this one."""
        return Gradient({group: self.flat.pop(group)}, spare=True)

    def copy(self, group: str) -> Gradient:
        """A copy of the part of one group."""
        return Gradient({group: self.flat[group].clone()}, spare=True)

    def norm(self, group: str) -> float:
        """Euclidean norm of one group's part."""
        return float(self.flat[group].norm())


def combined(*terms: tuple[float, Gradient]) -> Gradient:
    """The weighted sum of spare gradients, made in their memory: no further copy of the weights'
    size exists meanwhile."""
    total: dict[str, Tensor] = {}
    for factor, gradient in terms:
        assert gradient.spare, "the memory of this gradient belongs to somebody else"
        for group, flat in gradient.flat.items():
            flat.mul_(factor)
            total[group] = total[group].add_(flat) if group in total else flat
    return Gradient(total, spare=True)


def cosine(left: Tensor, right: Tensor) -> float | None:
    """Cosine of the angle between two flat gradients; None where one of them is zero."""
    norms = float(left.norm()) * float(right.norm())
    return float(left @ right) / norms if norms > 0 else None


def put_gradient(parameters: list[nn.Parameter], flat: Tensor) -> None:
    """Set ``.grad`` of the parameters from one flat tensor."""
    position = 0
    for parameter in parameters:
        size = parameter.numel()
        part = flat[position : position + size].view_as(parameter)
        parameter.grad = part.to(parameter.device)
        position += size
