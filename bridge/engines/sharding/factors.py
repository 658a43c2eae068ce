"""LoRA factors of a model whose dense weights and gradients are spread over ranks.

A rank has a range of each flattened weight W = W0 + s B A. That range lies in some rows of W, so

    delta = s B[rows] A,    dJ/dB[rows] = s dJ/dW[rows] A^T,    dJ/dA = s B[rows]^T dJ/dW[rows]

with zeros where a row belongs to another rank in part; the ranks' shares of the factors' gradients
are summed. Each rank updates an equal part of the flattened factors and gathers the others'.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import PreTrainedModel

from bridge.engines.sharding.engines import Piece
from bridge.machine.ranks import Ranks
from bridge.models.checkpoint import hollow
from bridge.step.weights import LORA, lora_layers, plain_name, with_lora


class LoraFactors:
    """The factors of all adapted layers.

    Args:
        model: plain; its weights are not looked at.
        adapter: rank, alpha and target layers.
        seed: decides the initial factors, as in a run of one process.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        adapter: tuple[int, int, str],
        seed: int,
        ranks: Ranks,
    ) -> None:
        # Drawn in the precision of what they are laid beside, and that is float32.
        wrapped = with_lora(hollow(model, torch.float32), adapter, seed)
        named = dict(wrapped.named_parameters())
        self.base_names = [n for n in named if "lora_" not in n]
        self.names = [n for n in named if "lora_" in n]
        self.scaling = {plain_name(n): m.scaling[LORA] for n, m in lora_layers(wrapped)}
        self._factors = {n: named[n].detach().clone() for n in self.names}
        """Whole, by name."""
        self._pairs = {
            plain_name(n): tuple(f"{n}.lora_{side}.{LORA}.weight" for side in "AB")
            for n, _ in lora_layers(wrapped)
        }
        self._ranks = ranks
        self.pieces = self._cut()

    def _cut(self) -> list[Piece]:
        """This rank's part of the flattened factors, factor by factor."""
        total = sum(f.numel() for f in self._factors.values())
        rank, size = self._ranks.rank, self._ranks.size
        begin, end = total * rank // size, total * (rank + 1) // size
        pieces, position = [], 0
        for name in self.names:
            factor = self._factors[name]
            start = min(max(begin - position, 0), factor.numel())
            stop = min(max(end - position, 0), factor.numel())
            pieces.append(Piece(tuple(factor.shape), start, stop - start))
            position += factor.numel()
        return pieces

    def to(self, device: torch.device) -> None:
        """Move the factors to where the pieces of the weights are."""
        self._factors = {n: f.to(device) for n, f in self._factors.items()}

    def own_parts(self) -> list[Tensor]:
        """This rank's part of each factor."""
        return self._parts(self._factors)

    def _parts(self, whole: Mapping[str, Tensor]) -> list[Tensor]:
        return [piece.of(whole[n]) for n, piece in zip(self.names, self.pieces, strict=True)]

    def gather(self, parts: Sequence[Tensor]) -> None:
        """Take over all ranks' parts."""
        fresh = {n: torch.zeros_like(f) for n, f in self._factors.items()}
        for target, part in zip(self._parts(fresh), parts, strict=True):
            target.copy_(part)
        self._factors = self._summed(fresh)

    @staticmethod
    def _summed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        flat = torch.cat([t.reshape(-1) for t in tensors.values()])
        dist.all_reduce(flat)
        parts = flat.split([t.numel() for t in tensors.values()])
        return {n: p.view_as(t) for (n, t), p in zip(tensors.items(), parts, strict=True)}

    def deltas(self, pieces: Mapping[str, Piece]) -> Iterator[tuple[str, Tensor]]:
        """This rank's pieces of s B A with the plain names of their weights."""
        for layer, (down, up) in self._pairs.items():
            piece = pieces[f"{layer}.weight"]
            rows, skipped = _rows(piece)
            delta = self.scaling[layer] * (self._factors[up][rows] @ self._factors[down])
            yield f"{layer}.weight", delta.reshape(-1)[skipped : skipped + piece.length]

    def gradient(self, dense: Mapping[str, Tensor], pieces: Mapping[str, Piece]) -> list[Tensor]:
        """This rank's part of the gradient with respect to each factor.

        Args:
            dense: this rank's pieces of the gradient with respect to the weights.
        """
        share = {n: torch.zeros_like(f) for n, f in self._factors.items()}
        for layer, (down, up) in self._pairs.items():
            piece = pieces[f"{layer}.weight"]
            rows, skipped = _rows(piece)
            width = piece.shape[1]
            whole_rows = torch.zeros(
                (rows.stop - rows.start) * width, device=self._factors[up].device
            )
            whole_rows[skipped : skipped + piece.length] = dense[f"{layer}.weight"]
            scaled = self.scaling[layer] * whole_rows.view(-1, width)
            share[down] += self._factors[up][rows].T @ scaled
            share[up][rows] += scaled @ self._factors[down].T
        return [part.clone() for part in self._parts(self._summed(share))]


def _rows(piece: Piece) -> tuple[slice, int]:
    """Rows of a weight that a piece touches, and how many elements of the first are not in it."""
    columns = piece.shape[1]
    first = piece.start // columns
    last = -(-(piece.start + piece.length) // columns)
    return slice(first, last if piece.length else first), piece.start % columns
