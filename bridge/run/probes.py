"""Both objectives, measured on fixed questions during every run of every method.

Accuracy (greedy) and demonstration loss on a held-out probe and on a training probe: whatever a
method optimises, forgetting shows. ``probe_samples`` adds what the coupling study reads: J and L as
expectations in the theory's units, and the angle of their gradients. Probe seconds are kept apart
from training seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bridge.grading.extraction import last_boxed
from bridge.grading.labels import matthews
from bridge.grading.lenient import last_number_is
from bridge.grading.verdicts import Verdict
from bridge.methods.base import Method
from bridge.run.experience import Collector
from bridge.step.batches import StepBatch
from bridge.step.protocols import Weights
from bridge.step.rows import Group, Row, demonstration_row
from bridge.step.trainer import Trainer
from bridge.step.weights import ADAPTER, BASE, SHADOW
from bridge.tasks.base import Dataset

# Plain J and L, per sequence: no KL term, no standard deviation, no length normalisation.
_PLAIN = {
    "kl_coef": 0.0,
    "norm_adv_by_std_in_grpo": False,
    "loss_agg_mode": "seq-mean-token-sum",
    "sft_loss_agg_mode": "seq-mean-token-sum",
}


class Probes:
    """Fixed probe questions: the first ``probe_size`` of each split."""

    def __init__(
        self,
        policy: Weights,
        trainer: Trainer,
        collector: Collector,
        dataset: Dataset,
        method: Method,
    ) -> None:
        self.policy, self.trainer, self.collector = policy, trainer, collector
        self.method, self.training = method, method.training
        training = method.training
        self.plain = training.model_copy(update=_PLAIN)
        self.verdicts: Counter[Verdict] = Counter()  # of the last greedy answers
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
            self.verdicts = Counter()
            out: dict[str, float | None] = {}
            for name, problems in (("heldout", self.heldout), ("train", self.train)):
                found = Counter(self.collector.greedy_verdicts(problems, limit_tokens=limit))
                out[f"{name}_accuracy"] = found["correct"] / len(problems)
                self.verdicts += found
            for name, rows in self.demonstrations.items():
                out[name] = self.trainer.demonstration_loss(rows) if rows else None
            if self.training.probe_samples:
                out |= self._expectations(step, out)
            if n := self.method.probe_samples:
                groups = self.collector.probe_groups(self.heldout, n=n, name="method", step=step)
                out |= self.method.probe(self.trainer, groups)
            if ADAPTER in self.policy.groups:
                out["adapter_norm"] = self.policy.adapter_norm()
            if SHADOW in self.policy.groups:
                out["shadow_distance"] = self.policy.shadow_distance()
                out["cooperative_gain"] = self._cooperative_gain(step)
        return out

    def _expectations(
        self, step: int, per_token: dict[str, float | None]
    ) -> dict[str, float | None]:
        """J under both yardsticks, L in nats per sequence, both gradients (held-out probe).

        ``probe_cosine`` is that of the gradients of the two losses, L and -J: above zero, a small
        step on either helps the other.
        """
        n = self.training.probe_samples
        drawn = {
            name: self.collector.probe_groups(problems, n=n, name=name, step=step)
            for name, problems in (("heldout", self.heldout), ("train", self.train))
        }
        out: dict[str, float | None] = {}
        for name, groups in drawn.items():
            out |= {f"{name}_{key}": value for key, value in self._rewards(groups).items()}
        for name, rows in self.demonstrations.items():
            loss = per_token[name]
            tokens = sum(len(row.response_ids) for row in rows)
            out[f"{name}_nats"] = None if loss is None else loss * tokens / len(rows)
        return out | self._gradients(drawn["heldout"], self.demonstrations["demo_loss_heldout"])

    def _rewards(self, groups: Sequence[Group]) -> dict[str, float | None]:
        """Strict reward, lenient score, share of answers with a box, mean length in tokens.

        For labels 0 and 1 also the Matthews correlation of the last label.
        """
        rows = [row for group in groups for row in group.rows]
        texts = [self.policy.sampler.text(list(row.response_ids)) for row in rows]
        lenient = [last_number_is(t, r.problem.answer) for t, r in zip(texts, rows, strict=True)]
        out: dict[str, float | None] = {
            "reward": sum(row.reward or 0.0 for row in rows) / len(rows),
            "lenient": sum(lenient) / len(rows),
            "format": sum(last_boxed(text) is not None for text in texts) / len(rows),
            "length": sum(len(row.response_ids) for row in rows) / len(rows),
        }
        golds = [row.problem.answer for row in rows]
        if set(golds) == {"0", "1"}:
            out["mcc"] = matthews([gold == "1" for gold in golds], lenient)
        return out

    def _gradients(
        self, groups: Sequence[Group], demonstrations: Sequence[Row]
    ) -> dict[str, float | None]:
        """Norms and cosine of the gradients of -J and L; the run's own logs and counts stay."""
        method = Method(Method.Options(), self.plain)
        trainer = Trainer(self.policy, self.plain)
        batch = StepBatch(tuple(method.rows(groups, demonstrations, step=0)))
        rl = trainer.gradient("rl", batch).gradient
        out: dict[str, float | None] = {"probe_rl_norm": rl.norm(BASE)}
        if demonstrations:
            sft = trainer.gradient("demonstration", batch).gradient
            out["probe_sft_norm"] = sft.norm(BASE)
            out["probe_cosine"] = rl.cosine(sft, BASE)
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
