"""The hooks of a training method.

A method is one file with a class ``METHOD``: it decides what kind of step comes next, which rows
the update sees and how they are weighted. The trainer owns losses, counts, precision, clipping and
everything that must be right for all methods at once (:mod:`bridge.run`). Method files import
no torch, so a suite is planned and checked on a bare machine; where a hook gets tensors it uses
their own methods.

Order of one step: ``phase`` -> ``requests`` -> generate and grade -> ``followup`` -> ``regroup``
-> ``rows`` -> ``advantage`` -> ``update`` (which asks for ``token_weight`` and ``mix``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bridge.step.objectives.advantages import group_advantages
from bridge.step.rows import TERMS, Group, Phase, Request, Row
from bridge.store.schema import Closed, ConfigError
from bridge.store.settings import TrainingConfig
from bridge.tasks.base import Problem

if TYPE_CHECKING:
    from torch import Tensor

    from bridge.models.checkpoint import Policy
    from bridge.step.batches import MicroBatch, StepBatch
    from bridge.step.protocols import Grader
    from bridge.step.trainer import Trainer
    from bridge.store.records import RunFolder
    from bridge.tasks.base import Dataset


@dataclass(frozen=True)
class Adapter:
    """Weights beside the trainable base weights (the upper level of BRIDGE), zero at the start."""

    rank: int
    alpha: int
    targets: str
    full: bool = False
    """A full set of weights instead of LoRA factors; the other fields are then unused."""

    @property
    def shape(self) -> tuple[int, int, str] | Literal["full"]:
        """What :class:`bridge.step.weights.WholeWeights` is made with."""
        return "full" if self.full else (self.rank, self.alpha, self.targets)


@dataclass
class StepStats:
    """What a method may look at before it mixes the terms."""

    step: int
    groups: Sequence[Group] = ()
    rows: Mapping[str, int] = field(default_factory=dict)
    """Rows of the update by term, over the whole global batch."""
    tokens: Mapping[str, int] = field(default_factory=dict)
    """Loss tokens by term, over the whole global batch."""


class Times(tuple[float, ...]):
    """Factors on a row's own value, among the values of a knob."""


class Method:
    """Base of all methods: plain GRPO on rollouts unless a hook says otherwise."""

    class Options(Closed):
        """Options of the method; a subclass declares its own."""

    tuning: ClassVar[Mapping[str, tuple[Any, ...]] | None] = None
    """The knob that equal tuning may turn beside the learning rates (``options.x`` or
    ``training.x``) and the values it tries; ``{}``: no knob. None cannot be tuned."""
    adapter: Adapter | None = None
    """Further weights beside the base weights, or None."""
    uses_shadow: bool = False
    """Whether the trainer keeps shadow weights (a second set of base weights)."""
    forks_shadow: bool = False
    """Whether each step makes shadow weights anew and frees them."""
    shadow_rollouts: bool = False
    """Whether the step's prompts are also answered by the shadow policy (``batch.shadow``)."""
    uses_reference: bool = False
    """Whether it compares with a reference policy, also without a KL term."""
    probe_samples: int = 0
    """Samples per held-out question that :meth:`probe` reads."""
    gives_prefixes: bool = False
    """Whether a rollout may begin with a part of its demonstration, so that both need room."""
    policy: Policy
    """Tokens and texts of the model that is trained; there once a run has been built."""
    grader: Grader
    """Of the run; there as early."""

    def __init__(self, options: Any, training: TrainingConfig, seed: int = 0) -> None:
        self.options = options
        self.training = training
        self.seed = seed
        """The run's seed. Own randomness is a function of it and the step, so that a resumed run
        needs no generator state."""

    # -- before the run -------------------------------------------------------------------------

    def check(self, where: str) -> None:
        """Refuse impossible combinations of options at planning time.

        Raises:
            ConfigError: one sentence that begins with ``where``.
        """

    @property
    def n_steps(self) -> int:
        """Optimiser steps of a whole run: the option ``steps`` unless a method adds others."""
        return int(self.options.steps)

    def before_run(self, trainer: Trainer, dataset: Dataset, folder: RunFolder) -> None:
        """Compute, read or refuse what the run needs beside its rows, at the base's weights."""

    # -- one step -------------------------------------------------------------------------------

    def phase(self, step: int) -> Phase:
        """Kind of the step (1-based)."""
        return Phase("rl")

    def demonstrated_prompts(self, step: int) -> int:
        """How many of the step's prompts are drawn from those that carry a demonstration."""
        return 0

    def requests(self, problems: Sequence[Problem], step: int) -> list[Request]:
        """Which rollouts to draw for the step's prompts."""
        return [Request(p, self.training.n) for p in problems]

    def followup(
        self, groups: Sequence[Group], round_: int, draw: Callable[[int], list[Problem]]
    ) -> list[Request]:
        """Further requests given the results so far; an empty list ends the rounds.

        Args:
            draw: takes the next prompts of the run's stream.
        """
        return []

    def regroup(self, groups: list[Group]) -> list[Group]:
        """The step's groups, given one for each request of all rounds."""
        return groups

    def demonstrations_wanted(self, step: int) -> int:
        """Rows to draw from the demonstration stream for this step."""
        return 0 if self.phase(step).kind == "rl" else self.training.sft_batch_size

    def rows(self, groups: Sequence[Group], demonstrations: Sequence[Row], step: int) -> list[Row]:
        """Rows of the update: all rollouts with their advantages, and the demonstrations."""
        out = []
        for group in groups:
            for row, advantage in zip(group.rows, self.advantage(group), strict=True):
                out.append(replace(row, advantage=advantage))
        return [*out, *demonstrations]

    def advantage(self, group: Group) -> list[float]:
        """Advantage of each row of a group."""
        return group_advantages(group.rewards, norm_by_std=self.training.norm_adv_by_std_in_grpo)

    def token_weight(self, batch: MicroBatch) -> Tensor | None:
        """Detached coefficient c_t [rows, tokens] of the demonstration term; None is 1."""
        return None

    def divergence(self, trainer: Trainer, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Loss of the term ``ref_kl`` and log-probs of the targets, both [rows, tokens]."""
        raise NotImplementedError(f"{type(self).__name__} gives rows a teacher but no divergence")

    def mix(self, step: int, stats: StepStats) -> tuple[float, ...]:
        """Weights (a, b[, kappa]) of the terms in a L_RL + b L_D + kappa L_ref_kl."""
        kind = self.phase(step).kind
        return float(kind != "sft"), float(kind != "rl")

    def update(self, trainer: Trainer, batch: StepBatch, step: int) -> None:
        """One optimiser step on the mixed loss for the base weights."""
        stats = StepStats(
            step,
            batch.groups,
            rows={term: batch.n_rows(term) for term in TERMS},
            tokens={term: batch.n_tokens(term) for term in TERMS},
        )
        terms = [
            (weight, trainer.gradient(term, batch).gradient.take("base"))
            for weight, term in zip(self.mix(step, stats), TERMS, strict=False)
            if weight != 0.0
        ]
        # A batch that teaches nothing is a step with a zero gradient, as in other trainers.
        trainer.descend("base", trainer.combined(*terms), self.phase(step))

    def reanchor_reference(self, step: int) -> bool:
        """Whether the KL reference becomes the current policy just before this step."""
        return False

    def probe(self, trainer: Trainer, groups: Sequence[Group]) -> dict[str, float | None]:
        """Further numbers of a probe, from the policy's own answers to its questions."""
        return {}

    # -- state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Own state between steps, JSON values only."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned."""

    def tensors(self) -> Mapping[str, Tensor]:
        """Own state in tensors, by name."""
        return {}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what :meth:`tensors` returned."""

    def scalars(self) -> dict[str, float]:
        """Further numbers for the step's line in ``dynamics.jsonl``."""
        return {}


def refuse(where: str, reason: str) -> ConfigError:
    """Return the error of a method's :meth:`Method.check`."""
    return ConfigError(f"{where}: {reason}")
