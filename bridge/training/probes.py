"""Both objectives, measured on fixed questions during every run of every method.

Accuracy (greedy) and demonstration loss on a held-out probe and on a training probe: whatever a
method optimises, forgetting shows. Probe seconds are kept apart from training seconds.
"""

from __future__ import annotations

from bridge.config import TrainingConfig
from bridge.policies.trainable import ADAPTER, SHADOW, TrainablePolicy
from bridge.problems.base import Dataset
from bridge.training.experience import Collector
from bridge.training.streams import demonstration_row
from bridge.training.trainer import Trainer


class Probes:
    """Fixed probe questions: the first ``probe_size`` of each split."""

    def __init__(
        self,
        policy: TrainablePolicy,
        trainer: Trainer,
        collector: Collector,
        dataset: Dataset,
        training: TrainingConfig,
    ) -> None:
        self.policy, self.trainer, self.collector = policy, trainer, collector
        self.training = training
        size = training.probe_size
        self.heldout = dataset.validation[:size]
        self.train = dataset.train[:size]
        self.demonstrations = {
            "demo_loss_train": [
                demonstration_row(policy.sampler, p) for p in dataset.demonstrations[:size]
            ],
            "demo_loss_heldout": [
                demonstration_row(policy.sampler, p)
                for p in self.heldout
                if p.demonstration is not None
            ],
        }

    def measure(self, step: int) -> dict[str, float | None]:
        """Return the probe's numbers at the current weights."""
        with self.collector.stopwatch.stage("probe"):
            limit = self.training.max_response_tokens
            out: dict[str, float | None] = {
                "heldout_accuracy": self.collector.greedy_accuracy(
                    self.heldout, limit_tokens=limit
                ),
                "train_accuracy": self.collector.greedy_accuracy(self.train, limit_tokens=limit),
            }
            for name, rows in self.demonstrations.items():
                out[name] = self.trainer.demonstration_loss(rows) if rows else None
            if ADAPTER in self.policy.groups:
                out["adapter_norm"] = self.policy.adapter_norm()
            if SHADOW in self.policy.groups:
                out["shadow_distance"] = self.policy.shadow_distance()
                out["cooperative_gain"] = self._cooperative_gain(step)
        return out

    def _cooperative_gain(self, step: int) -> float:
        """J(theta, w) - J(theta-hat, w) by reward on the held-out probe.

        The difference of the surrogate losses is about zero by construction and says nothing.
        Both policies draw from the same random numbers, which lowers the variance.
        """
        ours = self.collector.sampled_reward(self.heldout, name="gain", step=step)
        with self.policy.shadow_active():
            self.collector.engine.sync()
            shadow = self.collector.sampled_reward(self.heldout, name="gain", step=step)
        self.collector.engine.sync()
        return ours - shadow
