"""What a step asks of the weights, the reference policy, the engine and the grader.

Two kinds of weights fulfil :class:`Weights`: whole ones in one process
(:class:`bridge.step.weights.WholeWeights`), and ones that DeepSpeed spreads over ranks
(:mod:`bridge.engines.sharding`). Which kind a run has is decided in one place,
:mod:`bridge.engines.choosing`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from torch import Tensor, nn

from bridge.grading import GradeItem
from bridge.grading.verdicts import Graded
from bridge.machine.ranks import Ranks
from bridge.models.checkpoint import Policy
from bridge.step.rollouts import Completion, Prompt

if TYPE_CHECKING:
    from bridge.step.batches import MicroBatch
    from bridge.step.trainer import Trainer

Score = Callable[..., Tensor]
"""Log-probs [rows, tokens] from input ids, targets and temperature; whole weights also take the
packed rows (:mod:`bridge.models.packing`)."""

Divergence = Callable[["Trainer", "MicroBatch"], tuple[Tensor, Tensor]]
"""Loss of the term ``ref_kl`` and log-probs of the targets, both [rows, tokens]."""

TokenWeight = Callable[["MicroBatch"], Tensor | None]
"""Detached coefficient c_t [rows, tokens] of the demonstration term; None is 1."""


class Engine(Protocol):
    """Generates completions from the current weights."""

    def sync(self) -> None:
        """Take over the trainer's current weights (a no-op where they are shared)."""
        ...

    def sleep(self) -> None:
        """Give back what device memory can be; a sync meanwhile waits for the wake-up."""
        ...

    def wake(self) -> None:
        """Be ready to generate from the current weights; a generation also does it by itself."""
        ...

    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, temperature: float
    ) -> list[list[Completion]]:
        """Return, per prompt, one completion per seed. Temperature 0 is greedy decoding."""
        ...


class Grader(Protocol):
    """Judges answers."""

    def grade(self, items: Sequence[GradeItem]) -> list[Graded]:
        """A verdict for each item."""
        ...


class Weights(Protocol):
    """The weights of a run: groups of parameters, and the model that is computed with.

    Groups are ``base``, ``adapter`` (added to the live base weights) and ``shadow`` (a second set
    of base weights under the same adapter). A parameter is what this rank holds of a weight.
    """

    sampler: Policy
    """The plain model that is sampled from and differentiated, with its tokenizer."""
    ranks: Ranks
    names: dict[str, list[str]]
    parameters: dict[str, list[nn.Parameter]]

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups that hold parameters."""
        ...

    @property
    def sizes(self) -> dict[str, int]:
        """Parameters of each group, over all ranks."""
        ...

    def score(self, input_ids: Tensor, targets: Tensor, temperature: float) -> Tensor:
        """Log-probs [rows, tokens] of the targets at the current weights."""
        ...

    def score_with_entropy(
        self, input_ids: Tensor, targets: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        """The same, and the entropies [rows, tokens] of the distributions, both differentiable."""
        ...

    def changed(self) -> None:
        """Say that parameters of a group have been written to."""
        ...

    def refresh(self) -> None:
        """Make the model compute with the current weights, if they have changed."""
        ...

    def gathered(self) -> Iterator[tuple[str, Tensor]]:
        """Names and values of the model's weights as they are now, each whole."""
        ...

    def whole_model(self) -> AbstractContextManager[None]:
        """Inside, ``sampler.model`` is a plain model at the current weights."""
        ...

    def collecting(self) -> AbstractContextManager[None]:
        """Inside, backward passes add to one flat gradient."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of this rank's part of a loss."""
        ...

    def take_gradient(self) -> dict[str, Tensor]:
        """Return the accumulated gradient, flat per group, and clear it."""
        ...

    def shadow_active(self) -> AbstractContextManager[None]:
        """Inside, the base group holds the shadow weights (and the shadow group the base's)."""
        ...

    def forked_shadow(self) -> AbstractContextManager[None]:
        """As :meth:`shadow_active`, with a copy of the base that is freed at the end."""
        ...

    def shadow_distance(self) -> float:
        """Euclidean distance between base and shadow weights."""
        ...

    def adapter_norm(self) -> float:
        """Frobenius norm of what the adapter adds to the weights, over all layers."""
        ...

    def whole(self, group: str, index: int, part: Tensor) -> Tensor:
        """The whole of a weight, or of an optimiser's state of it, from what this rank holds."""
        ...

    def part(self, group: str, index: int, whole: Tensor) -> Tensor:
        """What this rank holds of a whole weight."""
        ...


class ReferencePolicy(Protocol):
    """The policy of the KL term: scored, never trained."""

    def active(self) -> AbstractContextManager[Score]:
        """Inside, the reference can be computed with; yields what scores under it."""
        ...

    def follow(self) -> None:
        """Become the trained policy as it is now."""
        ...

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """All weights with their names, each whole."""
        ...

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take back what :meth:`state` returned."""
        ...
