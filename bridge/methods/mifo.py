"""``mifo``: ``relift`` whose SFT steps spare what RL has moved (arXiv 2510.04454).

    enters the buffer   prompts of which at most the share q of the rollouts is right
    is learnt           in SFT, of each demonstration the share rho of tokens of highest entropy
    is frozen           in SFT, the share of parameters with the largest importance,
                        importance = alpha importance + |change since the last SFT step|

The update is masked, not the gradient, which Adam's moments and weight decay would get round. The
paper's q, rho, alpha and share are not known: the defaults are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from bridge.methods.base import refuse
from bridge.methods.relift import ReLIFT
from bridge.step.rows import Group
from bridge.store.settings import TrainingConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bridge.step.batches import MicroBatch, StepBatch
    from bridge.step.trainer import Trainer


class MIFO(ReLIFT):
    """See ``docs/methods/mifo.md``."""

    class Options(ReLIFT.Options):
        """Options of ``mifo``."""

        q: float = Field(0.25, ge=0, le=1)
        rho: float = Field(0.5, ge=0, le=1)
        alpha: float = Field(0.5, ge=0, lt=1)
        """Share of the old importance that stays; 0 is the paper's variant with a dagger."""
        freeze_share: float = Field(0.5, ge=0, le=1)

    options: Options
    tuning: ClassVar = {"options.freeze_share": (0.25, 0.5, 0.75)}

    def __init__(self, options: Any, training: TrainingConfig, seed: int = 0) -> None:
        super().__init__(options, training, seed)
        self._start: list[Tensor] = []
        """Base weights at the first RL step since the last SFT step; empty right after one."""
        self._importance: list[Tensor] = []

    def check(self, where: str) -> None:
        super().check(where)
        if self.training.sharding.stage != "none":
            raise refuse(where, "mifo needs whole weights; set training.sharding.stage: none.")
        if self.training.trainable == "lora":
            raise refuse(
                where, "mifo freezes single weights, of which lora has none; set trainable: full."
            )

    def token_weight(self, batch: MicroBatch) -> Tensor | None:
        from bridge.methods.entropy_mask import entropy_mask  # torch

        return None if self.options.rho == 1.0 else entropy_mask(batch, self.options.rho)

    def update(self, trainer: Trainer, batch: StepBatch, step: int) -> None:
        base = trainer.policy.parameters["base"]
        if self.phase(step).kind == "rl":
            self._start = self._start or [p.detach().to("cpu", copy=True) for p in base]
            return super().update(trainer, batch, step)
        if self.options.rho < 1.0:
            from bridge.methods.columns import with_columns  # torch

            batch = with_columns(trainer, batch, ("entropy",))
        frozen, before = self._frozen(base), [p.detach().clone() for p in base]
        super().update(trainer, batch, step)
        for parameter, mask, old in zip(base, frozen, before, strict=True):
            parameter.data[mask] = old[mask]
        trainer.policy.changed()

    def _fails(self, group: Group) -> bool:
        return self.n_right(group) <= self.options.q * len(group.rewards)

    def _frozen(self, base: list[nn.Parameter]) -> list[Tensor]:
        """Masks of the parameters that the SFT step leaves alone."""
        import torch

        if self._start:
            moved = [(p.detach().cpu() - s).abs() for p, s in zip(base, self._start, strict=True)]
            old = self._importance or [torch.zeros_like(change) for change in moved]
            keep = self.options.alpha
            self._importance = [keep * o + change for o, change in zip(old, moved, strict=True)]
            self._start = []
        flat = torch.cat([values.flatten() for values in self._importance])
        mask = torch.zeros(len(flat), dtype=torch.bool)
        mask[flat.topk(round(self.options.freeze_share * len(flat))).indices] = True
        parts = mask.split([p.numel() for p in base])
        return [part.view_as(p).to(p.device) for part, p in zip(parts, base, strict=True)]

    def tensors(self) -> Mapping[str, Tensor]:
        named = {"start": self._start, "importance": self._importance}
        return {f"{name}|{i}": t for name, held in named.items() for i, t in enumerate(held)}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        def held(name: str) -> list[Tensor]:
            n = sum(key.startswith(f"{name}|") for key in tensors)
            return [tensors[f"{name}|{i}"] for i in range(n)]

        self._start, self._importance = held("start"), held("importance")


METHOD = MIFO
