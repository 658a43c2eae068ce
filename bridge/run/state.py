"""The state of a running training run: its steps, and what a checkpoint holds of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from bridge.machine.telemetry import Stopwatch
from bridge.methods.base import Method
from bridge.models.checkpoint import weights_hash
from bridge.models.optimizers import send_to_host
from bridge.models.resuming import (
    find_checkpoint,
    optimizer_tensors,
    read_checkpoint,
    restore_optimizer,
    save_checkpoint,
)
from bridge.plan.budget import is_spent
from bridge.plan.fingerprint import train_fingerprint
from bridge.plan.grid import RunSpec
from bridge.run.experience import Collector
from bridge.run.probes import Probes
from bridge.run.streams import positions
from bridge.run.temperature import calibrated_temperature
from bridge.step.batches import StepBatch
from bridge.step.protocols import Weights
from bridge.step.rows import Group, Phase, Row, demonstration_row
from bridge.step.trainer import Trainer
from bridge.step.weights import BASE, FROZEN
from bridge.store.records import RecordError, RunFolder
from bridge.tasks.base import Dataset, Problem

SYNC_GAP_LIMIT = 0.1
"""Mean |difference| in nats between the sampler's and the trainer's log-probs of the same tokens,
above which the sampler must have had other weights."""


@dataclass
class Counters:
    """Where the run is; everything else of the data order follows from it."""

    step: int = 0
    rl_batches: int = 0
    prompts: int = 0
    demonstrations: int = 0
    demonstrated_prompts: int = 0
    best_step: int = 0
    """Of the policy that is kept, where that is the best on validation problems."""
    best_accuracy: float = -1.0
    temperature: float | None = None
    """Found for the stage below, where one was searched for."""
    temperature_stage: str | None = None


@dataclass
class Run:
    """All that one training run holds."""

    spec: RunSpec
    folder: RunFolder
    method: Method
    dataset: Dataset
    policy: Weights
    trainer: Trainer
    collector: Collector
    probes: Probes
    stopwatch: Stopwatch
    counters: Counters = field(default_factory=Counters)
    demonstration_rewards: dict[str, float] = field(default_factory=dict)
    """Graded reward of each demonstration, by the id of its problem."""

    @property
    def finished(self) -> bool:
        """Whether the method's last step is made or the budget is spent."""
        made = self.counters.step >= self.method.n_steps
        return made or is_spent(self.spec.training.budget, self.n_weights, self.spent_tokens())

    @property
    def n_weights(self) -> int:
        """Weights of the model that is computed with, an adapter left out."""
        return self.policy.sizes.get(FROZEN, self.policy.sizes[BASE])

    # -- one step -------------------------------------------------------------------------------

    def step(self) -> dict[str, Any]:
        """Make the next optimiser step and return its line for ``dynamics.jsonl``."""
        self.counters.step += 1
        step = self.counters.step
        phase = self.method.phase(step)
        self.trainer.begin_step(*self._place_in_stage(step, phase.stage))
        if self.trainer.reference is not None and self.method.reanchor_reference(step):
            self.trainer.reference.follow()
        groups: Sequence[Group] = ()
        statistics: dict[str, float | None] = {}
        shadow: StepBatch | None = None
        if phase.kind != "sft":
            self._calibrate_temperature(phase.stage)
            groups, statistics, shadow = self._rollouts(step)
        demonstrations = [
            demonstration_row(self.policy.sampler, problem)
            for problem in self._take_demonstrated(
                self.method.demonstrations_wanted(step), "demonstrations"
            )
        ]
        with self.stopwatch.stage("sync"):
            self.collector.engine.sleep()
        with self.stopwatch.stage("update"):
            batch, scalars = self._update(groups, demonstrations, shadow, step)
        with self.stopwatch.stage("sync"):
            self.collector.engine.sync()
        scalars |= self.method.scalars()
        _check_sync_gap(scalars.get("sync_logprob_gap"), step)
        drawn = sum(len(group.rows) for group in groups)
        kept = sum(row.kind != "demonstration" for row in batch.rows)
        return {
            "step": step,
            "kind": phase.kind,
            "stage": phase.stage,
            "rl_step": self.counters.rl_batches,
            "progress": step / self.method.n_steps,
            "lr": self.trainer.learning_rate(phase),
            "rows_dropped": max(0, drawn - kept),
            **statistics,
            **scalars,
        }

    def _place_in_stage(self, step: int, stage: str) -> tuple[int, int]:
        """Number of the step within its stage (1-based), and the stage's number of steps."""
        first, n_steps = self._stages[stage]
        return step - first + 1, n_steps

    @cached_property
    def _stages(self) -> dict[str, tuple[int, int]]:
        """First step and number of steps of each stage."""
        steps: dict[str, list[int]] = {}
        for step in range(1, self.method.n_steps + 1):
            steps.setdefault(self.method.phase(step).stage, []).append(step)
        return {stage: (found[0], len(found)) for stage, found in steps.items()}

    def _update(
        self,
        groups: Sequence[Group],
        demonstrations: Sequence[Row],
        shadow: StepBatch | None,
        step: int,
    ) -> tuple[StepBatch, dict[str, float | None]]:
        """The optimiser steps on a batch of rollouts; return the batch and what was logged."""

        def batch_of(
            groups: Sequence[Group], taught: Sequence[Row], shadow: StepBatch | None
        ) -> StepBatch:
            return StepBatch(self._rows(groups, taught, step), tuple(groups), shadow)

        config = self.spec.training
        size = config.ppo_mini_batch_size or len(groups)
        if not groups or (config.ppo_epochs == 1 and size >= len(groups)):
            batch = batch_of(groups, demonstrations, shadow)
            self.method.update(self.trainer, batch, step)
            return batch, dict(self.trainer.scalars)
        cuts = range(0, len(groups), size)
        parts = []
        for k, begin in enumerate(cuts):
            theirs = None
            if shadow is not None:
                chosen = shadow.groups[begin : begin + size]
                theirs = batch_of(chosen, (), None)
            taught = demonstrations[k :: len(cuts)]
            part = batch_of(groups[begin : begin + size], taught, theirs)
            parts.append(part)
        # All before the first update: the policy that drew the rollouts is the one of now.
        parts = [replace(p, old_logprobs=self.trainer.logprobs("rl", p)) for p in parts]
        place = self._place_in_stage(step, self.method.phase(step).stage)
        logs = []
        for part in parts * config.ppo_epochs:
            self.trainer.begin_step(*place)
            self.method.update(self.trainer, part, step)
            logs.append(dict(self.trainer.scalars))
        rows = tuple(row for part in parts for row in part.rows)
        return StepBatch(rows, tuple(groups)), _mean(logs)

    def _rollouts(self, step: int) -> tuple[list[Group], dict[str, float | None], StepBatch | None]:
        """The step's groups with their statistics, and the shadow's groups where wanted."""
        demonstrated = self.method.demonstrated_prompts(step)
        wanted = self.spec.training.prompts_per_step
        problems = self._take_demonstrated(demonstrated, "demonstrated_prompts")
        problems += self._take_prompts(wanted - demonstrated)
        self.counters.rl_batches += 1
        rl_index = self.counters.rl_batches
        groups, statistics = self.collector.groups(
            self.method, problems, step, rl_index, draw=self._take_prompts
        )
        training = self.spec.training
        if training.temperature_entropy is not None:
            statistics["temperature"] = self.counters.temperature
        if training.response_token_stages:
            statistics["response_limit"] = training.response_limit(step / self.method.n_steps)
        groups = [self._with_demonstration(group) for group in groups]
        if not self.method.shadow_rollouts:
            return groups, statistics, None
        with self.policy.shadow_active():
            self.collector.engine.sync()
            theirs, _ = self.collector.groups(
                self.method, problems, step, rl_index, draw=self._take_prompts, name="shadow"
            )
        self.collector.engine.sync()
        rows = self._rows(theirs, (), step)
        return groups, statistics, StepBatch(rows, tuple(theirs))

    def _rows(self, groups: Sequence[Group], taught: Sequence[Row], step: int) -> tuple[Row, ...]:
        """Rows of the method, truncated rollouts left out where they are masked."""
        rows, masks = self.method.rows(groups, taught, step), self.spec.training.mask_truncated
        return tuple(row for row in rows if not (masks and row.truncated))

    def _calibrate_temperature(self, stage: str) -> None:
        """Search the stage's sampling temperature, at its first step with rollouts."""
        target = self.spec.training.temperature_entropy
        if target is not None and self.counters.temperature_stage != stage:
            found = calibrated_temperature(self.collector, self.dataset.train, target=target)
            self.counters.temperature, self.counters.temperature_stage = found, stage
            self._use_temperature()

    def _use_temperature(self) -> None:
        """Sample and score at the temperature that was found, if one was."""
        if self.counters.temperature is not None:
            update = {"temperature": self.counters.temperature}
            training = self.spec.training.model_copy(update=update)
            self.trainer.training = self.collector.training = self.method.training = training

    def _take_prompts(self, n: int) -> list[Problem]:
        """The next prompts of the run's stream."""
        chosen = positions(
            "prompts",
            self.spec.seed,
            start=self.counters.prompts,
            n=n,
            size=len(self.dataset.train),
        )
        self.counters.prompts += n
        return [self.dataset.train[i] for i in chosen]

    def _with_demonstration(self, group: Group) -> Group:
        if group.problem.demonstration is None:
            return group
        row = demonstration_row(self.policy.sampler, group.problem)
        reward = self.demonstration_rewards[group.problem.id]
        return replace(group, demonstration=replace(row, reward=reward))

    def grade_demonstrations(self) -> float | None:
        """J(D): mean reward that the demonstrations themselves earn under the run's grader."""
        pool = self.dataset.demonstrations
        rewards = self.collector.demonstration_rewards(pool)
        self.demonstration_rewards = {p.id: r for p, r in zip(pool, rewards, strict=True)}
        return sum(rewards) / len(rewards) if rewards else None

    def _take_demonstrated(self, n: int, stream: str) -> list[Problem]:
        """The next ``n`` training problems with a demonstration of one of their two streams."""
        if n == 0:
            return []
        pool = self.dataset.demonstrations
        if not pool:
            raise RecordError(
                f"{self.spec.label} needs demonstrations, but dataset '{self.spec.dataset}' has "
                "none; give at least one training problem a demonstration (in a generated data "
                "set its option 'demonstrations' does)."
            )
        start = getattr(self.counters, stream)
        setattr(self.counters, stream, start + n)
        chosen = positions(stream, self.spec.seed, start=start, n=n, size=len(pool))
        return [pool[i] for i in chosen]

    # -- state ----------------------------------------------------------------------------------

    @cached_property
    def identity(self) -> dict[str, str]:
        """What a checkpoint has to have in common with this run, see ``resuming.IDENTITY``."""
        return {
            "train_hash": self.spec.train_hash,
            "code": train_fingerprint(self.spec),
            "base_model": weights_hash(self.policy.sampler.folder),
        }

    def save(self, dynamics_bytes: int, timings_bytes: int) -> None:
        """Write a checkpoint of everything that the rest of the run depends on."""
        if not self.policy.ranks.first:
            deque(self._tensors(), maxlen=0)  # all ranks gather what the first one writes
            return
        state = {
            **self.identity,
            "step": self.counters.step,
            "counters": vars(self.counters),
            "method": self.method.state_dict(),
            "optimizers": list(self.trainer.optimizers),
            "seconds": self.stopwatch.total_s,
            "memory_gib": self.stopwatch.memory.stages,
            "tokens": self.spent_tokens(),
            "dynamics_bytes": dynamics_bytes,
            "timings_bytes": timings_bytes,
        }
        save_checkpoint(self.folder.resume, self.counters.step, state, self._tensors())

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors of a checkpoint, each gathered when it is asked for."""
        for group in self.policy.groups:
            pairs = zip(self.policy.names[group], self.policy.parameters[group], strict=True)
            for index, (name, parameter) in enumerate(pairs):
                yield f"{group}|{name}", self.policy.whole(group, index, parameter.detach())
        for name, optimizer in self.trainer.optimizers.items():
            group = name.split("/")[0]
            yield from optimizer_tensors(name, optimizer, partial(self.policy.whole, group))
        if self.trainer.reference is not None:
            for name, weight in self.trainer.reference.state():
                yield f"reference|{name}", weight
        for name, value in self.method.tensors().items():
            yield f"method|{name}", value

    def restore(self) -> tuple[int, int] | None:
        """Restore the newest checkpoint; return the sizes of the two logs it belongs to."""
        found = self.policy.ranks.from_first(
            partial(find_checkpoint, self.folder.resume, identity=self.identity)
        )
        if found is None:
            return None
        checkpoint = read_checkpoint(found)
        state, tensors = checkpoint.state, checkpoint.tensors
        with torch.no_grad():
            for group in self.policy.groups:
                pairs = zip(self.policy.names[group], self.policy.parameters[group], strict=True)
                for index, (name, parameter) in enumerate(pairs):
                    whole = tensors[f"{group}|{name}"]
                    parameter.copy_(self.policy.part(group, index, whole))
            self.policy.changed()
        if self.trainer.reference is not None:
            self.trainer.reference.load(_below("reference|", tensors))
        self.method.load_tensors(_below("method|", tensors))
        for name in state["optimizers"]:
            group, stage, kind = name.split("/")
            phase = Phase(kind=kind, stage=stage)
            optimizer = self.trainer.optimizer(group, phase)
            restore_optimizer(name, optimizer, tensors, partial(self.policy.part, group))
            if self.spec.training.cpu_offload:
                send_to_host(optimizer)
        self.counters = Counters(**state["counters"])
        self._use_temperature()
        self.method.load_state_dict(state["method"])
        self.stopwatch.total_s.update(state["seconds"])
        # Older checkpoints have no peaks; the run continues without them.
        self.stopwatch.memory.stages.update(state.get("memory_gib", {}))
        tokens = state["tokens"]
        self.collector.tokens_generated = tokens["generated"]
        self.collector.tokens_prefilled = tokens["prefilled"]
        self.trainer.tokens_trained = tokens["trained"]
        self.trainer.tokens_scored = tokens["scored"]
        self.trainer.tokens_demonstration = tokens.get("demonstration", 0)
        self.collector.engine.sync()
        return state["dynamics_bytes"], state["timings_bytes"]

    def spent_tokens(self) -> dict[str, int]:
        """Tokens generated (without prompts), prefilled, trained, scored, and of demonstrations."""
        return {
            "generated": self.collector.tokens_generated,
            "prefilled": self.collector.tokens_prefilled,
            "trained": self.trainer.tokens_trained,
            "scored": self.trainer.tokens_scored,
            "demonstration": self.trainer.tokens_demonstration,
        }


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin so, without that beginning."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _mean(logs: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    """Mean of each number over the updates that logged it."""
    found: dict[str, list[float]] = {}
    for log in logs:
        for name, value in log.items():
            found.setdefault(name, []).extend([] if value is None else [value])
    return {name: sum(v) / len(v) if v else None for name, v in found.items()}


def _check_sync_gap(gap: float | None, step: int) -> None:
    if gap is not None and gap > SYNC_GAP_LIMIT:
        raise RecordError(
            f"step {step}: the sampler's log-probs differ from the trainer's by {gap:.3f} nats on "
            "average, so rollouts came from other weights than those being trained; this is a bug "
            "of the engine's weight sync."
        )
