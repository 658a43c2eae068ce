"""What a step of each method takes: gradients and optimisers that exist at once, backward passes.

Most methods follow from their phases: one gradient and one pass for each term of a step, one
optimiser for each kind of step of a stage. Methods that take more, or less, are listed in
:data:`_OTHERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from bridge.jobs.needs.phases import expected_steps
from bridge.methods.asft import ASFT
from bridge.methods.base import Method
from bridge.methods.bridge import Bridge
from bridge.methods.mifo import MIFO
from bridge.methods.prefix_rft import PrefixRFT
from bridge.methods.relift import ReLIFT
from bridge.methods.sasr import WarmUpSwitch
from bridge.methods.self_distillation import SelfDistillation
from bridge.methods.srft import SRFT
from bridge.methods.weighted import WeightedSFT
from bridge.step.rows import StepKind, Term

_TERMS: dict[StepKind, tuple[Term, ...]] = {
    "rl": ("rl",),
    "sft": ("demonstration",),
    "joint": ("rl", "demonstration"),
}


@dataclass(frozen=True)
class StepCost:
    """What the steps of a method take."""

    gradients_at_once: int
    """Gradients of the base's size that a step holds while it takes one more backward pass."""
    optimizers_at_once: int
    """Optimisers of the base weights that exist at a time."""
    passes: Mapping[StepKind, Mapping[Term, int]]
    """Backward passes over the rows of each term, by kind of step."""
    combined_at_once: int = 0
    """Such gradients while directions are made of them, where that is more."""
    scored: Mapping[Term, int] = field(default_factory=dict)
    """Passes without gradient over the rows of each term, for a method's columns."""

    @property
    def terms(self) -> set[Term]:
        """Terms that any step takes backward."""
        return {term for passes in self.passes.values() for term in passes}


def cost_of(method: Method) -> StepCost:
    """The cost of a method's steps."""
    cost = _from_phases(method)
    for kind, adjusted in _OTHERS.items():
        if isinstance(method, kind):
            cost = adjusted(method, cost)
    return cost


def _from_phases(method: Method) -> StepCost:
    stages: dict[str, set[StepKind]] = {}
    for phase in expected_steps(method):
        stages.setdefault(phase.stage, set()).add(phase.kind)
    kinds = set[StepKind]().union(*stages.values())
    return StepCost(
        gradients_at_once=2 if "joint" in kinds else 1,
        # Those of a stage that has ended are gone.
        optimizers_at_once=max(map(len, stages.values()), default=0),
        passes={kind: dict.fromkeys(_TERMS[kind], 1) for kind in kinds},
    )


def _bridge(method: Bridge, cost: StepCost) -> StepCost:
    chosen = method.options
    combined = 0
    if chosen.upper != "lora":
        # Both terms, theta's direction and theta-hat's term; then the gain, and w's with its parts.
        gradients, combined = (3, 6) if chosen.shadow == "none" else (4, 8)
    else:
        gradients = 4 if method.forks_shadow else 2
    again = 1 if chosen.update_order == "jacobi" else 2
    at_shadow = {
        "none": 0,
        "persistent": again,
        "lookahead": 1,
        "m_step": chosen.shadow_steps,
    }[chosen.shadow]
    return StepCost(
        gradients_at_once=gradients,
        combined_at_once=combined,
        optimizers_at_once=2 if chosen.upper == "base" else 1,
        passes={"joint": {"rl": again + at_shadow, "demonstration": again}},
    )


def _switch(method: WarmUpSwitch, cost: StepCost) -> StepCost:
    return replace(cost, optimizers_at_once=1)  # of both kinds of step together


def _weighted(method: WeightedSFT, cost: StepCost) -> StepCost:
    own = bool(set(method.reads) - {"reference"})
    return replace(cost, scored={"demonstration": own + method.uses_reference})


def _anchored(method: ASFT, cost: StepCost) -> StepCost:
    anchored = method.options.anchor > 0
    sft: dict[Term, int] = {"demonstration": 1 + anchored}
    return replace(cost, passes={**cost.passes, "sft": sft}, gradients_at_once=1 + anchored)


def _scored_by_both(method: SRFT, cost: StepCost) -> StepCost:
    return replace(cost, scored={"rl": 1, "demonstration": 1})


def _distilled(method: SelfDistillation, cost: StepCost) -> StepCost:
    terms = 1 + (method.options.rl_weight > 0)  # over the same answers
    # The teacher reads every answer.
    return replace(cost, gradients_at_once=terms, passes={"rl": {"rl": terms}}, scored={"rl": 1})


def _masked_by_entropy(method: PrefixRFT, cost: StepCost) -> StepCost:
    return replace(cost, scored={"demonstration": 1})


def _chosen_by_entropy(method: MIFO, cost: StepCost) -> StepCost:
    return replace(cost, scored={"demonstration": int(method.options.rho < 1)})


def _buffered(method: ReLIFT, cost: StepCost) -> StepCost:
    # How often it fills depends on the run; an SFT step costs less than the RL step in its place.
    sft: dict[Term, int] = {"demonstration": 1}
    return replace(cost, optimizers_at_once=2, passes={**cost.passes, "sft": sft})


_OTHERS: dict[type[Method], Callable[..., StepCost]] = {
    Bridge: _bridge,
    WarmUpSwitch: _switch,
    WeightedSFT: _weighted,
    ASFT: _anchored,
    SRFT: _scored_by_both,
    ReLIFT: _buffered,
    SelfDistillation: _distilled,
    PrefixRFT: _masked_by_entropy,
    MIFO: _chosen_by_entropy,
}
