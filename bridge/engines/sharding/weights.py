"""A policy under training whose weights, gradients and optimiser states are spread over ranks.

It keeps the contract of :class:`bridge.step.weights.WholeWeights`: groups of parameters,
an adapter on live base weights, a shadow that is swapped in. A parameter here is this rank's piece
of a weight, flat and in float32; ``flat`` gradients are pieces likewise. What is computed with is
the merged model in DeepSpeed's engine. Base, shadow and a full adapter are cut as DeepSpeed cuts
the model's weights; LoRA factors are small, so every rank also has them whole to merge from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bridge.engines.sharding.engines import Piece, ShardedModel
from bridge.engines.sharding.factors import LoraFactors
from bridge.machine.ranks import Ranks
from bridge.models.checkpoint import Policy
from bridge.step.protocols import Score
from bridge.step.weights import ADAPTER, BASE, SHADOW, AdapterShape, plain_name
from bridge.store.settings import ShardingConfig


class ShardedWeights:
    """Weights of a run on several ranks and what can be done with them.

    Args:
        policy: the base checkpoint, taken over; with its weights on the first rank alone.
        adapter: the shape of the adapter, which starts at zero; or None.
        shadow: whether to keep shadow weights.
        seed: decides the adapter's initialisation.
        compute: dtype of the model that samples and is differentiated.
    """

    def __init__(
        self,
        policy: Policy,
        sharding: ShardingConfig,
        ranks: Ranks,
        *,
        adapter: AdapterShape | None = None,
        shadow: bool = False,
        seed: int = 0,
        compute: torch.dtype = torch.float32,
    ) -> None:
        self.sampler = policy
        self.ranks = ranks
        self.compute = compute
        values = {name: p.detach() for name, p in policy.model.named_parameters()}  # of the file
        self.names: dict[str, list[str]] = {BASE: list(values), ADAPTER: []}
        self._lora: LoraFactors | None = None
        if adapter is not None and adapter != "full":
            self._lora = LoraFactors(policy.model, adapter, seed, ranks)
            self.names = {BASE: self._lora.base_names, ADAPTER: self._lora.names}
        self._model = ShardedModel(policy.model, sharding, ranks, compute=compute)
        self.device = self._model.device
        cut = [self._model.pieces[plain_name(name)] for name in self.names[BASE]]
        self._pieces: dict[str, list[Piece]] = {BASE: cut, SHADOW: cut, ADAPTER: cut}
        if self._lora is not None:
            self._pieces[ADAPTER] = self._lora.pieces
            self._lora.to(self.device)
        elif adapter == "full":
            self.names[ADAPTER] = self.names[BASE]
        self.parameters: dict[str, list[nn.Parameter]] = {
            BASE: [
                self._own(piece.of(self._received(values[plain_name(name)])))
                for name, piece in zip(self.names[BASE], cut, strict=True)
            ],
            ADAPTER: [],
        }
        if self._lora is not None:
            self.parameters[ADAPTER] = [self._own(part) for part in self._lora.own_parts()]
        elif adapter == "full":
            self.parameters[ADAPTER] = [nn.Parameter(torch.zeros_like(p)) for p in self._base]
        del values  # the file's, before there is more on the host
        if shadow:
            self._fork()
        self._stale = False

    def _received(self, value: Tensor) -> Tensor:
        """A whole weight of the first rank, on all ranks."""
        received = value if self.ranks.first else torch.empty(value.shape, dtype=value.dtype)
        dist.broadcast(received, src=0)
        return received

    def _own(self, values: Tensor) -> nn.Parameter:
        return nn.Parameter(values.to(self.device, torch.float32, copy=True))

    @property
    def _base(self) -> list[nn.Parameter]:
        return self.parameters[BASE]

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups that hold parameters."""
        return tuple(g for g, ps in self.parameters.items() if ps)

    @property
    def sizes(self) -> dict[str, int]:
        """Parameters of each group, over all ranks."""
        pieces = {g: self._pieces[g] if ps else [] for g, ps in self.parameters.items()}
        return {g: sum(piece.numel for piece in cut) for g, cut in pieces.items()}

    def score(self, input_ids: Tensor, targets: Tensor, temperature: float) -> Tensor:
        """Log-probs [rows, tokens] of the targets at the current weights."""
        self.refresh()
        return self._model.score(input_ids, targets, temperature)

    def score_with_entropy(
        self, input_ids: Tensor, targets: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        """The same with the entropies [rows, tokens]."""
        self.refresh()
        return self._model.score_with_entropy(input_ids, targets, temperature)

    def changed(self) -> None:
        """Say that parameters of a group have been written to."""
        self._stale = True

    @torch.no_grad()
    def refresh(self) -> None:
        """Make the model compute with the current weights, if they have changed."""
        if not self._stale:
            return
        self._publish(self.merged())
        self._stale = False

    def _publish(self, pieces: Mapping[str, Tensor]) -> None:
        for name, piece in pieces.items():
            self._model.write(name, piece)
        self._model.publish()

    @property
    def model_pieces(self) -> dict[str, Piece]:
        """This rank's ranges of the model's weights, by plain name."""
        return self._model.pieces

    @contextlib.contextmanager
    def lent(self, pieces: Mapping[str, Tensor]) -> Iterator[Score]:
        """Inside, the model computes with other weights; yields what scores under them."""
        self._publish(pieces)
        self._stale = True
        yield self._model.score

    def merged(self) -> dict[str, Tensor]:
        """This rank's pieces of the weights that the model computes with, by plain name."""
        merged: dict[str, Tensor] = {
            plain_name(name): parameter.detach()
            for name, parameter in zip(self.names[BASE], self._base, strict=True)
        }
        for name, delta in self._deltas():
            merged[name] = merged[name] + delta
        return merged

    def _deltas(self) -> Iterator[tuple[str, Tensor]]:
        """This rank's pieces of what the adapter adds, with the plain name of the weight."""
        if self._lora is not None:
            self._lora.gather([p.detach() for p in self.parameters[ADAPTER]])
            yield from self._lora.deltas(self._model.pieces)
            return
        pairs = zip(self.names[ADAPTER], self.parameters[ADAPTER], strict=True)
        yield from ((plain_name(name), delta.detach()) for name, delta in pairs)

    def gathered(self) -> Iterator[tuple[str, Tensor]]:
        """Names and values of the model's weights as they are now, whole on every rank. Each is
        gathered when it is asked for, so all ranks ask for all of them."""
        self.refresh()
        return self._model.gathered()

    @contextlib.contextmanager
    def whole_model(self) -> Iterator[None]:
        """Inside, ``sampler.model`` is a plain model at the current weights, on every rank."""
        self.refresh()
        with self._model.whole():
            yield

    # -- gradients ------------------------------------------------------------------------------

    def collecting(self) -> contextlib.AbstractContextManager[None]:
        """DeepSpeed collects gradients as they come."""
        return contextlib.nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of this rank's part of a loss."""
        self._model.backward(loss)

    def take_gradient(self) -> dict[str, Tensor]:
        """Return this rank's pieces of the accumulated gradient, flat per group, and clear it."""
        dense = self._model.take_gradient()
        flat = {BASE: torch.cat([dense[plain_name(name)] for name in self.names[BASE]])}
        if self._lora is not None:
            self._lora.gather([p.detach() for p in self.parameters[ADAPTER]])
            flat[ADAPTER] = torch.cat(self._lora.gradient(dense, self._model.pieces))
        elif self.parameters[ADAPTER]:
            flat[ADAPTER] = flat[BASE]  # of W + D both have the same gradient
        return flat

    # -- shadow ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def shadow_active(self) -> Iterator[None]:
        """Inside, the base group holds the shadow weights (and the shadow group the base's)."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @contextlib.contextmanager
    def forked_shadow(self) -> Iterator[None]:
        """As :meth:`shadow_active`, with a copy of the base that is made here and freed then."""
        self._fork()
        try:
            with self.shadow_active():
                yield
        finally:
            del self.names[SHADOW], self.parameters[SHADOW]

    def _fork(self) -> None:
        self.names[SHADOW] = self.names[BASE]
        self.parameters[SHADOW] = [nn.Parameter(p.detach().clone()) for p in self._base]

    def _swap(self) -> None:
        for parameter, shadow in zip(self._base, self.parameters[SHADOW], strict=True):
            parameter.data, shadow.data = shadow.data, parameter.data
        self.changed()

    # -- numbers and states -----------------------------------------------------------------------

    @torch.no_grad()
    def shadow_distance(self) -> float:
        """Euclidean distance between base and shadow weights."""
        pairs = zip(self._base, self.parameters[SHADOW], strict=True)
        return self._root(sum(float(((p - s) ** 2).sum()) for p, s in pairs))

    @torch.no_grad()
    def adapter_norm(self) -> float:
        """Frobenius norm of what the adapter adds to the weights, over all layers."""
        return self._root(sum(float((delta**2).sum()) for _, delta in self._deltas()))

    def _root(self, own: float) -> float:
        return float(self.ranks.total(own)[0] ** 0.5)

    @torch.no_grad()
    def whole(self, group: str, index: int, part: Tensor) -> Tensor:
        """The whole of a weight (or of what an optimiser keeps of it) from the ranks' pieces.

        Args:
            index: of the weight in the group.
            part: this rank's piece. What has another shape is the same on all ranks already.
        """
        piece = self._pieces[group][index]
        return whole(piece, part) if part.shape == (piece.length,) else part

    def part(self, group: str, index: int, whole: Tensor) -> Tensor:
        """This rank's piece of a whole weight: what :meth:`whole` was made from."""
        piece = self._pieces[group][index]
        return piece.of(whole) if tuple(whole.shape) == piece.shape else whole


@torch.no_grad()
def whole(piece: Piece, part: Tensor) -> Tensor:
    """The whole of what the ranks hold in pieces, on the host."""
    buffer = torch.zeros(piece.numel, dtype=part.dtype, device=part.device)
    piece.of(buffer).copy_(part)
    dist.all_reduce(buffer)
    return buffer.view(piece.shape).cpu()


class ShardedReference:
    """The :class:`~bridge.step.reference.Reference` of a run on several ranks.

    It is kept in pieces like everything else; to be scored it is put into the trained policy's
    place for as long as that takes.

    Args:
        policy: at the weights that the reference begins with.
    """

    def __init__(self, policy: ShardedWeights) -> None:
        self._policy = policy
        self.follow()

    @contextlib.contextmanager
    def active(self) -> Iterator[Score]:
        """Inside, the model computes with the reference's weights; yields what scores under it."""
        with self._policy.lent(self._pieces) as score:
            yield score

    @torch.no_grad()
    def follow(self) -> None:
        """Become the trained policy as it is now."""
        compute, merged = self._policy.compute, self._policy.merged()
        self._pieces = {name: piece.to(compute, copy=True) for name, piece in merged.items()}

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """All weights with their names, whole, each gathered when it is asked for."""
        pieces = self._policy.model_pieces
        return ((n, whole(pieces[n], part)) for n, part in self._pieces.items())

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take back what :meth:`state` told."""
        for name, piece in self._policy.model_pieces.items():
            self._pieces[name].copy_(piece.of(weights[name]))
