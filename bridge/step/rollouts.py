"""The protocol every rollout engine follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Prompt:
    """A prompt, a prefix of the answer that is given (may be empty), and one seed per sample."""

    ids: tuple[int, ...]
    """Templated prompt followed by the given prefix."""
    seeds: tuple[int, ...]
    """One per wanted sample, from :func:`bridge.store.seeds.derive_seed`; so a sample does not
    depend on what else is in the batch."""


@dataclass(frozen=True)
class Completion:
    """One sampled continuation, end-of-turn token included where the policy wrote one."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Log-probability of each token under the sampling policy at the sampling temperature."""
    entropies: tuple[float, ...] | None
    """Entropy in nats of the distribution each token was drawn from; None where the engine does not
    see the whole distribution."""
    truncated: bool
    """The length limit ended it, not the policy."""


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
