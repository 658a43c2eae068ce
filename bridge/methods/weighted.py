"""SFT whose tokens carry a detached weight, and RL after it: the frame of a family of methods.

    L = - mean over the demonstration tokens of sg[c_t] log p_t

A method of the family says what c_t is, as a function of a demonstration's log-probs and of the
columns it names in ``reads`` (:mod:`bridge.methods.columns`). The RL stage is that of
``cold_start``, the same for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from bridge.methods.base import Method
from bridge.step.rows import Phase
from bridge.store.schema import Closed, ConfigError, Steps, StepsOrZero

if TYPE_CHECKING:
    from torch import Tensor

    from bridge.step.batches import MicroBatch, StepBatch
    from bridge.step.gradients import Gradient
    from bridge.step.rows import Row
    from bridge.step.trainer import TermResult, Trainer
    from bridge.store.records import RunFolder
    from bridge.tasks.base import Dataset


class WeightedOptions(Closed):
    """Options of every method of the family."""

    steps: Steps
    """SFT steps of ``sft_batch_size`` demonstrations each."""
    rl_steps: StepsOrZero = 0
    """RL steps after them, with a fresh optimiser; the KL reference is the model SFT leaves."""


class WeightedSFT(Method):
    """SFT with c_t = :meth:`weight`, then RL."""

    options: WeightedOptions
    reads: ClassVar[tuple[str, ...]] = ()
    """Columns of the demonstration tokens that the weight is made from."""

    @property
    def top_k(self) -> int:
        """k of the columns about the likeliest tokens."""
        return 1

    @property
    def n_steps(self) -> int:
        return self.options.steps + self.options.rl_steps

    def phase(self, step: int) -> Phase:
        return Phase("sft", "sft") if step <= self.options.steps else Phase("rl", "rl")

    def reanchor_reference(self, step: int) -> bool:
        return step == self.options.steps + 1

    def before_run(self, trainer: Trainer, dataset: Dataset, folder: RunFolder) -> None:
        size: int = trainer.policy.sampler.model.config.vocab_size
        if self.top_k > size:
            raise ConfigError(
                f"options.top_k is {self.top_k}, but the model's vocabulary has {size} tokens; "
                "lower it."
            )

    def weight(self, logprob: Tensor, columns: Mapping[str, Tensor]) -> Tensor:
        """c_t [tokens] of one demonstration.

        Args:
            logprob: [tokens], detached.
            columns: [tokens] each.
        """
        raise NotImplementedError(f"{type(self).__name__} must say how tokens are weighted")

    def statistics(self, logprob: Tensor, columns: Mapping[str, Tensor]) -> dict[str, float]:
        """Numbers of a step for the log, from all its demonstration tokens."""
        return {}

    def direction(self, trainer: Trainer, batch: StepBatch, gradient: Gradient) -> Gradient:
        """What the SFT step descends, given the gradient of the weighted likelihood."""
        return gradient

    def token_weight(self, batch: MicroBatch) -> Tensor:
        from bridge.step.rl_loss import spread  # torch

        assert batch.logprob is not None
        found = [
            self._weight(row, batch.logprob[i, batch.mask[i]]) for i, row in enumerate(batch.rows)
        ]
        return spread(found, batch, batch.logprob.new_zeros(batch.logprob.shape))

    def update(self, trainer: Trainer, batch: StepBatch, step: int) -> None:
        phase = self.phase(step)
        if phase.kind == "rl":
            return super().update(trainer, batch, step)
        from bridge.methods.columns import with_columns  # torch

        batch = with_columns(trainer, batch, self.reads, top_k=self.top_k)
        found = trainer.gradient("demonstration", batch)
        self._log(trainer, batch, found)
        direction = self.direction(trainer, batch, found.gradient.take("base"))
        trainer.descend("base", direction, phase)

    def _weight(self, row: Row, logprob: Tensor) -> Tensor:
        columns = {n: logprob.new_tensor(values) for n, values in row.columns.items()}
        return self.weight(logprob, columns)

    def _log(self, trainer: Trainer, batch: StepBatch, found: TermResult) -> None:
        import torch

        shown = [(batch.rows[i], logprob) for i, logprob in found.logprobs.items()]
        weights = torch.cat([self._weight(row, logprob) for row, logprob in shown])
        low, high = weights.quantile(weights.new_tensor([0.1, 0.9])).tolist()
        logprob = torch.cat([own for _, own in shown])
        columns = {
            name: torch.cat([own.new_tensor(row.columns[name]) for row, own in shown])
            for name in shown[0][0].columns
        }
        trainer.log(
            token_weight_mean=weights.mean().item(),
            token_weight_p10=low,
            token_weight_p90=high,
            **self.statistics(logprob, columns),
        )
