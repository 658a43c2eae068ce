"""What an engine is asked for and what it gives back: prompts and sampled completions."""

from __future__ import annotations

from dataclasses import dataclass


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
