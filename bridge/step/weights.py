"""A policy under training: parameter groups, an adapter on live base weights, shadow weights.

Groups are named ``base`` (all dense weights, always trained) and ``adapter``: LoRA factors (through
peft, with the base unfrozen) or a second full set of weights that is added to the base. The shadow
is a further set of base weights that is swapped in under the same adapter while a gradient is taken
(BRIDGE's theta-hat). It is either kept for the whole run or forked off the base inside one step.

Where there is an adapter, everything runs on a plain model that holds the merged weights W + D,
where D is s B A or a full set. The same plain model is what computes in bfloat16 while the held
weights stay in float32, and what runs while the shadow's weights lie in the host's memory. All
objectives see only the merged weights, so one backward pass through it gives the gradients of both
groups exactly: dJ/dW for the base; dJ/dB = s (dJ/dW) A^T and dJ/dA = s B^T (dJ/dW) for LoRA
factors, dJ/dD = dJ/dW for a full set. No low-rank product is run per token, and what samples is
what is trained.

Gradients of micro-batches are summed in the precision of the held weights, in one flat buffer: each
weight's own gradient is added to it and freed while the backward pass still runs, so a second full
set never exists.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bridge.machine.ranks import ALONE, Ranks
from bridge.models.checkpoint import CheckpointError, Policy, cast_weights
from bridge.models.packing import Packed
from bridge.step.scoring import next_token_logprobs, next_token_scores
from bridge.store.seeds import derive_seed

BASE, ADAPTER, SHADOW = "base", "adapter", "shadow"
FROZEN = "frozen"
"""In sizes: the weights of the model, where what is trained are factors beside them."""
LORA = "default"
"""peft's name of the one adapter."""

AdapterShape = tuple[int, int, str] | Literal["full"]
"""LoRA's rank, alpha and target layers, or a full set of weights."""


class WholeWeights:
    """Weights and what can be done with them.

    Args:
        policy: the base checkpoint, in float32 (steps of 5e-7 vanish in bfloat16); taken over.
        adapter: the shape of the adapter, which starts at zero; or None.
        shadow: whether to keep shadow weights.
        seed: decides the adapter's initialisation.
        compute: dtype of the model that samples and is differentiated; None: that of the weights.
        shadow_on_host: keep the shadow weights, and whatever moves them, in the host's memory. They
            are merged into the plain model from there.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        adapter: AdapterShape | None = None,
        shadow: bool = False,
        seed: int = 0,
        compute: torch.dtype | None = None,
        shadow_on_host: bool = False,
    ) -> None:
        self._merges = adapter is not None or compute is not None or shadow_on_host
        self._peft: nn.Module | None = None
        held = copy.deepcopy(policy.model) if self._merges else policy.model
        if compute is not None:
            cast_weights(policy.model, compute)
        self.sampler = policy
        """The plain policy that is sampled from and differentiated; see :attr:`model`."""
        if adapter is not None and adapter != "full":
            self._peft = held = with_lora(held, adapter, seed)
        named = dict(held.named_parameters())
        self.names: dict[str, list[str]] = {
            BASE: [n for n in named if "lora_" not in n],
            ADAPTER: [n for n in named if "lora_" in n],
        }
        self.parameters: dict[str, list[nn.Parameter]] = {
            group: [named[n] for n in names] for group, names in self.names.items()
        }
        if adapter == "full":
            self.names[ADAPTER] = self.names[BASE]
            self.parameters[ADAPTER] = [
                nn.Parameter(torch.zeros_like(p)) for p in self.parameters[BASE]
            ]
        self._shadow_on_host = shadow_on_host
        if shadow:
            self._fork()
        self._stale = False
        self._flat: Tensor | None = None
        self._parts: dict[Tensor, Tensor] = {}

    ranks: Ranks = ALONE

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups that hold parameters."""
        return tuple(g for g, ps in self.parameters.items() if ps)

    @property
    def model(self) -> nn.Module:
        """The plain model at the current weights, merged anew if they have changed."""
        self.refresh()
        return self.sampler.model

    @property
    def sizes(self) -> dict[str, int]:
        """Parameters of each group."""
        return {g: sum(p.numel() for p in ps) for g, ps in self.parameters.items()}

    def score(
        self,
        input_ids: Tensor,
        targets: Tensor,
        temperature: float,
        packed: Packed | None = None,
    ) -> Tensor:
        """Log-probs [rows, tokens] of the targets at the current weights."""
        return next_token_logprobs(self.model, input_ids, targets, temperature, packed=packed)

    def score_with_entropy(
        self,
        input_ids: Tensor,
        targets: Tensor,
        temperature: float,
        packed: Packed | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The same with the entropies [rows, tokens]."""
        found = next_token_scores(
            self.model, input_ids, targets, temperature, with_entropy=True, packed=packed
        )
        assert found[1] is not None
        return found[0], found[1]

    def gathered(self) -> Iterator[tuple[str, Tensor]]:
        """Names and values of the model's weights as they are now."""
        return ((name, p.detach()) for name, p in self.model.named_parameters())

    @contextlib.contextmanager
    def whole_model(self) -> Iterator[None]:
        """Inside, ``sampler.model`` is a plain model at the current weights."""
        self.refresh()
        yield

    def changed(self) -> None:
        """Say that parameters of a group have been written to."""
        self._stale = self._merges

    @torch.no_grad()
    def refresh(self) -> None:
        """Write the merged weights into the plain model, if they have changed."""
        if not self._stale:
            return
        target = dict(self.sampler.model.named_parameters())
        held = {
            plain_name(name): parameter
            for name, parameter in zip(self.names[BASE], self.parameters[BASE], strict=True)
        }
        for name, parameter in held.items():
            target[name].copy_(parameter)
        for name, delta in self._deltas():
            # Summed in the precision of the held weights and rounded once.
            target[name].copy_(held[name].to(delta.device) + delta)
        self._stale = False

    @contextlib.contextmanager
    def collecting(self) -> Iterator[None]:
        """Inside, gradients of :attr:`model` go to the flat buffer as soon as they are complete."""
        hooks = [
            parameter.register_post_accumulate_grad_hook(self._collect)
            for parameter in self.sampler.model.parameters()
            if parameter.requires_grad
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def _collect(self, parameter: Tensor) -> None:
        """Add a plain weight's gradient to the flat buffer and free it."""
        assert parameter.grad is not None
        self._buffer()[parameter].add_(parameter.grad)
        parameter.grad = None

    def _buffer(self) -> dict[Tensor, Tensor]:
        """The part of the flat gradient that belongs to each plain weight."""
        if self._flat is None:
            plain = dict(self.sampler.model.named_parameters())
            weights = [plain[plain_name(name)] for name in self.names[BASE]]
            sizes = [weight.numel() for weight in weights]
            self._flat = torch.zeros(
                sum(sizes), dtype=self.parameters[BASE][0].dtype, device=weights[0].device
            )
            parts = self._flat.split(sizes)
            self._parts = {w: p.view_as(w) for w, p in zip(weights, parts, strict=True)}
        return self._parts

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of a loss."""
        loss.backward()

    def take_gradient(self) -> dict[str, Tensor]:
        """Return the gradient accumulated in :attr:`model`, flat per group, and clear it."""
        plain = dict(self.sampler.model.named_parameters())
        for parameter in plain.values():
            if parameter.grad is not None:
                self._collect(parameter)
        dense = self._buffer()
        assert self._flat is not None
        flat = {BASE: self._flat}
        if self._peft is not None:
            parts: dict[str, Tensor] = {}
            for name, layer in self._layers():
                down, up = layer.lora_A[LORA].weight, layer.lora_B[LORA].weight
                gradient = layer.scaling[LORA] * dense[plain[f"{plain_name(name)}.weight"]]
                parts[f"{name}.lora_A.{LORA}.weight"] = up.detach().T @ gradient
                parts[f"{name}.lora_B.{LORA}.weight"] = gradient @ down.detach().T
            flat[ADAPTER] = torch.cat([parts[n].reshape(-1) for n in self.names[ADAPTER]])
        elif self.parameters[ADAPTER]:
            flat[ADAPTER] = flat[BASE]  # of W + D both have the same gradient
        self._flat, self._parts = None, {}
        return flat

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
        """As :meth:`shadow_active`, with a copy of the base that is made here and freed at the end.

        What is written to the base group inside is written to the copy.
        """
        assert SHADOW not in self.parameters, "there is a shadow already"
        self._fork()
        try:
            with self.shadow_active():
                yield
        finally:
            del self.names[SHADOW], self.parameters[SHADOW]

    def _fork(self) -> None:
        self.names[SHADOW] = self.names[BASE]
        self.parameters[SHADOW] = [
            nn.Parameter(self._copy_for_shadow(p.detach())) for p in self.parameters[BASE]
        ]

    def _copy_for_shadow(self, weight: Tensor) -> Tensor:
        return weight.to("cpu", copy=True) if self._shadow_on_host else weight.clone()

    def _swap(self) -> None:
        for parameter, shadow in zip(self.parameters[BASE], self.parameters[SHADOW], strict=True):
            parameter.data, shadow.data = shadow.data, parameter.data
        self.changed()

    @torch.no_grad()
    def shadow_distance(self) -> float:
        """Euclidean distance between base and shadow weights."""
        pairs = zip(self.parameters[BASE], self.parameters[SHADOW], strict=True)
        return float(sum(((p - s.to(p.device)) ** 2).sum() for p, s in pairs)) ** 0.5

    @torch.no_grad()
    def adapter_norm(self) -> float:
        """Frobenius norm of what the adapter adds to the weights, over all layers."""
        return float(sum((delta**2).sum() for _, delta in self._deltas())) ** 0.5

    def whole(self, group: str, index: int, part: Tensor) -> Tensor:
        """The whole of a weight, or of what an optimiser keeps of it; here it is held whole."""
        return part

    def part(self, group: str, index: int, whole: Tensor) -> Tensor:
        """What this process holds of a whole weight."""
        return whole

    def _deltas(self) -> Iterator[tuple[str, Tensor]]:
        """What the adapter adds, with the plain name of the weight it is added to."""
        if self._peft is None:
            pairs = zip(self.names[ADAPTER], self.parameters[ADAPTER], strict=True)
            yield from ((plain_name(name), delta) for name, delta in pairs)
        for name, layer in self._layers():
            yield f"{plain_name(name)}.weight", layer.get_delta_weight(LORA)

    def _layers(self) -> list[tuple[str, Any]]:
        """Adapted layers with their names in the peft model."""
        return [] if self._peft is None else lora_layers(self._peft)


def with_lora(model: nn.Module, adapter: tuple[int, int, str], seed: int) -> Any:
    """Wrap a model in peft's LoRA layers, all weights trainable; the seed decides the factors.

    Raises:
        CheckpointError: the targets are no layers of the model that peft can adapt.
    """
    from peft import LoraConfig, get_peft_model  # half a second that other methods need not pay

    rank, alpha, targets = adapter
    torch.manual_seed(derive_seed("adapter", seed))
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=targets,
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    try:
        wrapped = get_peft_model(model, config).eval()
    except ValueError as error:
        name = next(n for n, m in model.named_modules() if isinstance(m, nn.Linear))
        raise CheckpointError(
            f"options.targets: {targets!r} cannot be adapted ({str(error)[:120]}); write "
            f"all-linear, or a regular expression of whole names like {name}."
        ) from None
    return wrapped.requires_grad_(True)  # peft freezes the base


def lora_layers(wrapped: nn.Module) -> list[tuple[str, Any]]:
    """Adapted layers of a wrapped model with their names in it."""
    from peft.tuners.lora import LoraLayer

    return [(n, m) for n, m in wrapped.named_modules() if isinstance(m, LoraLayer)]


def plain_name(name: str) -> str:
    """Name of a weight in the model without peft's wrappers."""
    return name.removeprefix("base_model.model.").replace(".base_layer", "")
