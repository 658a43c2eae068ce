"""Everything DeepSpeed: a model whose weights or gradients are sharded over the ranks.

DeepSpeed does the forward and backward passes, gathers weights and reduces gradients. Its own
optimiser step is not used: the trainer's update rules need directions that are sums of several
gradients, and an optimiser state per stage and kind, so they work on this rank's pieces directly
(:mod:`bridge.engines.sharding.weights`). What is taken from and given to DeepSpeed is in
:class:`ShardedModel`; nothing else in the package touches it.

Two traps of the pinned version (0.19.8) are worked around here, and tested:

- With its usual accumulation a backward pass that is not announced as the last one of a step is
  taken for it, and ZeRO-2 then keeps the last gradient only. ``managed_gradient_accumulation`` off
  sums until it is told to finish, whatever the number of passes.
- ZeRO-2 with offload forgets its sums in ``step`` only. Without that call the next gradient would
  hold the one before.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import PreTrainedModel

from bridge.machine.ranks import Ranks
from bridge.step.scoring import next_token_scores, too_many_logits
from bridge.store.schema import ConfigError
from bridge.store.settings import ShardingConfig


@dataclass(frozen=True)
class Piece:
    """The part of a weight that this rank owns: a range of its flattened elements."""

    shape: tuple[int, ...]
    """Of the whole weight."""
    start: int
    length: int
    """May be 0."""

    @property
    def numel(self) -> int:
        """Elements of the whole weight."""
        return int(torch.Size(self.shape).numel())

    def of(self, whole: Tensor) -> Tensor:
        """The piece of a whole weight, flat."""
        return whole.reshape(-1)[self.start : self.start + self.length]


class Scorer(nn.Module):
    """A model whose forward pass returns log-probs: DeepSpeed has to see the whole of what is run,
    the output layer of a large batch included, which is used outside of its own forward pass."""

    def __init__(self, model: PreTrainedModel, ranks: Ranks) -> None:
        super().__init__()
        self.model = model
        self.ranks = ranks

    def forward(
        self, input_ids: Tensor, targets: Tensor, temperature: float, with_entropy: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """See :func:`bridge.step.scoring.next_token_scores`."""
        # Weights are gathered in the order of their use: one way for all, or ranks wait for ever.
        cut = bool(self.ranks.most(int(too_many_logits(self.model, targets))))
        return next_token_scores(
            self.model, input_ids, targets, temperature, with_entropy=with_entropy, cut=cut
        )


class ShardedModel:
    """A model in a DeepSpeed engine, and this rank's pieces of its weights and gradients.

    Args:
        model: whole, on the host; its weights are taken over. Those of the other ranks than the
            first are not looked at: DeepSpeed sends them the first one's.
        compute: dtype that the model computes in; the pieces are float32 in any case.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        sharding: ShardingConfig,
        ranks: Ranks,
        *,
        compute: torch.dtype = torch.float32,
    ) -> None:
        self.ranks = ranks
        self._whole_weights = sharding.stage == "zero2"
        self._shapes = {n: tuple(p.shape) for n, p in model.named_parameters()}
        deepspeed = import_deepspeed()
        scorer = Scorer(model, ranks)
        # Never asked for a step: it only tells DeepSpeed which weights are trained.
        idle = torch.optim.SGD(model.parameters(), lr=0.0)
        settings = _settings(sharding, compute, max(p.numel() for p in model.parameters()))
        if not ranks.first:  # what is received goes to the device at once
            device = deepspeed.get_accelerator().current_device_name()
            for p in model.parameters():
                p.data = torch.empty(p.shape, dtype=compute, device=device)
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        self.engine: Any = deepspeed.initialize(model=scorer, optimizer=idle, config=settings)[0]
        for name, rounded in model.named_buffers():
            # In bfloat16 the frequencies of rotary positions would be wrong by whole turns.
            rounded.data = buffers[name].to(rounded.device)
        self.engine.eval()
        if sharding.stage == "zero3":
            deepspeed.zero.register_external_parameter(scorer, model.get_output_embeddings().weight)
        self._optimizer: Any = self.engine.optimizer
        # DeepSpeed hangs what it knows of a weight on the weight.
        self._weights: dict[str, Any] = dict(model.named_parameters())
        self.pieces = {name: self._piece(name) for name in self._weights}
        self.device = torch.device("cpu") if sharding.offload_optimizer else self.engine.device
        """Where the pieces of weights and gradients are."""
        self._summed = False

    def _piece(self, name: str) -> Piece:
        shape, weight = self._shapes[name], self._weights[name]
        if not self._whole_weights:
            # Equal chunks; the last ones may be padded, or hold padding only.
            numel, chunk = torch.Size(shape).numel(), weight.ds_tensor.numel()
            start = min(self.ranks.rank * chunk, numel)
            return Piece(shape, start, min(chunk, numel - start))
        mapping = weight._hp_mapping
        if mapping is None:  # wholly on other ranks
            return Piece(shape, 0, 0)
        address = mapping.lp_fragment_address
        return Piece(shape, int(address.start), int(address.numel))

    def _master(self, name: str) -> Tensor:
        """DeepSpeed's float32 copy of this rank's piece (a view)."""
        weight = self._weights[name]
        if not self._whole_weights:
            part, _ = self._optimizer._get_fp32_opt_state_partition(weight, False)
            return part.detach()[: self.pieces[name].length]
        return weight._hp_mapping.hp_fragment.detach()

    # -- weights --------------------------------------------------------------------------------

    @torch.no_grad()
    def write(self, name: str, piece: Tensor) -> None:
        """Set this rank's piece of a weight; :meth:`publish` makes the model use it."""
        if piece.numel():
            self._master(name).copy_(piece)

    @torch.no_grad()
    def publish(self) -> None:
        """Make the model compute with what was written, on all ranks."""
        if self._whole_weights:
            self._optimizer.update_lp_params()
            return
        # Weights that are still gathered from the last pass would stay what they were.
        self._optimizer._partition_all_parameters()
        for group in range(len(self._optimizer.fp16_groups)):
            self._optimizer._reassign_or_swap_out_partitioned_parameters(group)
        kept = self._optimizer.persistent_parameters
        if kept:  # small weights that every rank holds whole
            kept[0].all_gather(kept)

    @torch.no_grad()
    def gathered(self) -> Iterator[tuple[str, Tensor]]:
        """Names and values of what the model computes with, gathered one by one on the device.

        This holds no tensor longer than until the next one is asked for.
        """
        for name, weight in self._weights.items():
            if self._whole_weights:
                yield name, weight.detach()
            else:
                yield name, self._whole(name)

    def _whole(self, name: str) -> Tensor:
        own = self._weights[name].ds_tensor
        chunks = torch.empty(self.ranks.size * own.numel(), dtype=own.dtype, device=own.device)
        dist.all_gather_into_tensor(chunks, own)
        shape = self._shapes[name]
        return chunks[: torch.Size(shape).numel()].view(shape)

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Inside, the plain model has all its weights on every rank and runs without DeepSpeed."""
        if self._whole_weights:
            yield
            return
        from deepspeed.runtime.zero.stage3 import unwrap_model_for_generation

        with unwrap_model_for_generation(self.engine):
            yield

    # -- gradients ------------------------------------------------------------------------------

    def score(self, input_ids: Tensor, targets: Tensor, temperature: float) -> Tensor:
        """Log-probs [rows, tokens]; every rank makes as many calls."""
        logprobs: Tensor = self.engine(input_ids, targets, temperature)[0]
        return logprobs

    def score_with_entropy(
        self, input_ids: Tensor, targets: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        """The same with the entropies [rows, tokens]."""
        found: tuple[Tensor, Tensor] = self.engine(input_ids, targets, temperature, True)
        return found

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this rank's part of the loss; every rank makes as many calls."""
        self.engine.backward(loss)
        self._summed = True

    def take_gradient(self) -> dict[str, Tensor]:
        """Return this rank's pieces of the gradient, summed over calls and ranks, and clear it."""
        if not self._summed:
            return {n: torch.zeros(p.length, device=self.device) for n, p in self.pieces.items()}
        self._optimizer.finalize_gradient_accumulation_boundary()
        # DeepSpeed averages over the ranks, but their losses are parts of one sum.
        pieces = {n: self.ranks.size * self._gradient(n) for n in self.pieces}
        self._forget()
        return pieces

    def _gradient(self, name: str) -> Tensor:
        """A copy of this rank's piece of the reduced gradient, in float32."""
        piece, weight = self.pieces[name], self._weights[name]
        if piece.length == 0:
            return torch.zeros(0, device=self.device)
        if not self._whole_weights:
            part, _ = self._optimizer._get_fp32_grad_state_partition(weight, False)
            return part.reshape(-1)[: piece.length].to(self.device, torch.float32, copy=True)
        mapping = weight._hp_mapping
        part = mapping.get_lp_grad_fragment(weight._index_in_param_group).reshape(-1)
        return part.to(self.device, torch.float32, copy=True)

    def _forget(self) -> None:
        """Start the next gradient from zero, as DeepSpeed's own step would."""
        self._optimizer.zero_grad()
        if self._whole_weights:
            self._optimizer.micro_step_id = -1
            for sums in (self._optimizer.averaged_gradients, self._optimizer.all_grad_tensors):
                sums.update(dict.fromkeys(sums))
            if self._optimizer.cpu_offload:
                self._optimizer._offload_accumulated_param_ids = set()
                self._optimizer.reset_cpu_buffers()
        self._summed = False


def _settings(sharding: ShardingConfig, compute: torch.dtype, largest: int) -> dict[str, Any]:
    """DeepSpeed's configuration.

    Args:
        largest: elements of the largest weight. The buffer that gradients are reduced in is made
            anew in each pass and, under deterministic algorithms, filled: 2 GB by default.
    """
    zero: dict[str, Any] = {
        "stage": {"zero2": 2, "zero3": 3}[sharding.stage],
        "overlap_comm": False,
        "reduce_bucket_size": 2 * largest,
    }
    if sharding.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "train_micro_batch_size_per_gpu": 1,  # required, and of no effect here
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": compute == torch.bfloat16},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
    }


@functools.cache
def import_deepspeed() -> Any:
    """Return the module, set up quietly for the device that is here.

    Raises:
        ConfigError: it is not installed.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        import deepspeed
    except ImportError:
        raise ConfigError(
            "training.sharding needs DeepSpeed, which is not installed here; use the environment "
            "envs/gpu.yaml, or envs/dev.lock for tests on the CPU."
        ) from None
    deepspeed.utils.logger.setLevel(logging.ERROR)
    if not torch.cuda.is_available():
        # Its shared-memory collectives would be compiled first; gloo does as well.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    warnings.filterwarnings("ignore", message=".*is deprecated", category=FutureWarning)
    return deepspeed
