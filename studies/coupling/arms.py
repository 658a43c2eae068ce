"""The arms of a coupling suite: which run's policy each second phase starts from; what is refused.

Two runs belong together if they have the same model, dataset, seed and first phase; the first one
stops there (``second_steps: 0``). Streams and optimisers depend on the seed and the phase alone, so
the policy at the change of phase is the final policy of that one-phase run, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from bridge.methods.phases import Phases
from bridge.plan.grid import Plan, RunSpec
from bridge.store.schema import Closed, ConfigError, read_yaml, validate

Order = Literal["SFT then RL", "RL then SFT", "SFT then SFT", "RL then RL"]
NAMES = {"sft": "SFT", "rl": "RL"}

# What a phase of one kind does not read.
_RL_ONLY = ("kl_coef", "kl_estimator", "loss_agg_mode", "norm_adv_by_std_in_grpo", "lr_rl")
_SFT_ONLY = ("sft_loss_agg_mode", "sft_batch_size", "lr_sft")

NEAR = 0.15
"""How far J(D) may lie below what the dataset's options promise."""


class CouplingError(ConfigError):
    """A study that cannot be made; one sentence with the run and the remedy."""


class Sizes(Closed):
    """Sizes of the probes of a suite."""

    prompts: int = Field(48, ge=2, le=1_000_000)
    """Held-out prompts with a demonstration, on which both objectives are estimated."""
    samples: int = Field(16, ge=2, le=10_000)
    """Answers per prompt and policy."""


SIZES = Path(__file__).with_name("sizes.yaml")


def sizes_of(suite: str) -> Sizes:
    """Sizes of the probes of a suite: its line in ``sizes.yaml``, or the defaults."""
    return validate(Sizes, read_yaml(SIZES).get(suite, {}), SIZES, suite)


@dataclass(frozen=True)
class Arm:
    """A run of two phases with the run that ends at its change of phase."""

    whole: RunSpec
    first: RunSpec

    @property
    def order(self) -> Order:
        """Both phases, by name."""
        options = self.options
        order: Any = f"{NAMES[options.first]} then {NAMES[options.second]}"
        return order

    @property
    def options(self) -> Phases.Options:
        """Options of the method."""
        return Phases.Options.model_validate(self.whole.method_options)

    @property
    def beta(self) -> float:
        """KL weight, wherever it acts; 0 without a penalty."""
        return self.options.kl_in_reward or self.whole.training.kl_coef

    @property
    def penalty(self) -> str:
        """Name of the way the KL term is applied."""
        if self.options.kl_in_reward is not None:
            return "k1 in the reward"
        kind = self.whole.training.kl_estimator.replace("low_var_kl", "k3")
        return f"{kind} in the loss" if self.beta > 0 else "no penalty"

    @property
    def reference_is_first(self) -> bool:
        """Whether RL of the second phase is tied to the first phase's policy."""
        return self.options.reference == "first"


def target_name(spec: RunSpec) -> str:
    """Format and noise of a dataset's demonstrations, as figures name them."""
    if spec.dataset_options.get("target") == "bare":
        return "bare label"
    noise = spec.dataset_options.get("label_noise", 0.0)
    return f"verifier format, {100 * noise:g} % noise" if noise else "verifier format"


def arms(plan: Plan) -> list[Arm]:
    """All runs of two phases, each with its first-phase run.

    Raises:
        CouplingError: a second phase without the run that ends where it starts.
    """
    runs = [spec for spec in plan.runs if spec.method == "phases"]
    alone = {_first_key(spec): spec for spec in runs if _options(spec).second_steps == 0}
    found = []
    for spec in runs:
        if _options(spec).second_steps == 0:
            continue
        first = alone.get(_first_key(spec))
        if first is None:
            raise CouplingError(
                f"suite '{plan.name}': {spec.label}/{spec.dataset}/seed{spec.seed} has no run that "
                "ends at its change of phase, so nothing can be predicted from there; add a row "
                f"with first: {_options(spec).first}, steps: {_options(spec).steps} and "
                "second_steps: 0."
            )
        found.append(Arm(spec, first))
    return found


def check_demonstrations(spec: RunSpec, demo_reward: float) -> None:
    """Refuse demonstrations that the verifier pays less for than the dataset's options promise.

    Args:
        demo_reward: J(D), share of demonstrations that the verifier accepts.

    Raises:
        CouplingError: naming the dataset, J(D) and what was promised.
    """
    options = spec.dataset_options
    if options.get("target") == "bare":
        if demo_reward > NEAR:
            raise CouplingError(
                f"dataset '{spec.dataset}' is declared bare, but the verifier accepts "
                f"{demo_reward:.0%} of its demonstrations; set target: box."
            )
        return
    promised = 1.0 - options.get("label_noise", 0.0)
    if demo_reward < promised - NEAR:
        raise CouplingError(
            f"dataset '{spec.dataset}': the verifier accepts {demo_reward:.0%} of the "
            f"demonstrations where {promised:.0%} were promised; correct their format, or say "
            "target: bare if that is what is studied."
        )


def check_probes(name: str, train: Sequence[str], probe: Sequence[str]) -> None:
    """Refuse a held-out probe with questions that are trained on.

    Raises:
        CouplingError: with a question of both.
    """
    known = {" ".join(question.lower().split()) for question in train}
    for question in probe:
        if " ".join(question.lower().split()) in known:
            raise CouplingError(
                f"dataset '{name}': the probe question '{question}' is a training question too, "
                "so its loss would be that of a memorised answer; remove one of them."
            )


def check_same_scores(name: str, sft: Sequence[float], rl: Sequence[float]) -> None:
    """Refuse a change of phase that alters how one checkpoint scores the same answers.

    Args:
        sft, rl: log-probs per token of the same answers by each phase's own code, in nats.

    Raises:
        CouplingError: with the largest difference.
    """
    largest = max(abs(a - b) for a, b in zip(sft, rl, strict=True))
    if not largest <= 1e-6:
        raise CouplingError(
            f"{name}: the two phases score the same checkpoint's demonstrations differently by up "
            f"to {largest:.2g} nats per token, so a jump of the loss at the change of phase would "
            "be the code's; use one prompt template and training.temperature 1."
        )


def check_predictions(found: Sequence[Arm], hashes: Iterable[tuple[str, str]]) -> None:
    """Refuse predictions that were made for other runs than the suite has now.

    Args:
        hashes: training hashes (run of two phases, its first phase) of the written predictions.

    Raises:
        CouplingError: naming the first run without a prediction of its own.
    """
    known = set(hashes)
    for arm in found:
        if (arm.whole.train_hash, arm.first.train_hash) not in known:
            raise CouplingError(
                f"{arm.whole.label}/{arm.whole.dataset}/seed{arm.whole.seed} is not the run that "
                "predictions.csv was written for; delete the suite's folder coupling and its runs "
                "of two phases, and run the study again."
            )


def check_change_of_phase(
    arm: Arm, whole: Sequence[Mapping[str, Any]], alone: Sequence[Mapping[str, Any]]
) -> None:
    """Refuse a run whose policy at the change of phase is not that of its first-phase run.

    Args:
        whole, alone: lines of both runs' dynamics.

    Raises:
        CouplingError: with both losses on the held-out demonstrations, nats per token.
    """
    steps = arm.options.steps
    ours, theirs = (
        next((line.get("demo_loss_heldout") for line in lines if line["step"] == steps), None)
        for lines in (whole, alone)
    )
    if ours is None or theirs is None:
        raise CouplingError(
            f"{arm.whole.label}: nothing was measured at the change of phase, step {steps}; let "
            "training.probe_every divide the steps of the first phase."
        )
    if not abs(ours - theirs) <= 1e-6:
        raise CouplingError(
            f"{arm.whole.label}/{arm.whole.dataset}/seed{arm.whole.seed}: the loss at the change "
            f"of phase is {ours:.7g} here and {theirs:.7g} in {arm.first.label}, so predictions "
            "belong to another policy; train both with the same code and threads."
        )


def _options(spec: RunSpec) -> Phases.Options:
    return Phases.Options.model_validate(spec.method_options)


def _first_key(spec: RunSpec) -> str:
    """All that the first phase depends on."""
    options = _options(spec)
    unread = _RL_ONLY if options.first == "sft" else _SFT_ONLY
    # The reward's penalty and the KL term act in RL; in SFT first they do nothing.
    beta = options.kl_in_reward if options.first == "rl" else None
    training = spec.training.model_dump(exclude=set(unread))
    return repr((spec.model, spec.dataset, spec.seed, options.first, options.steps, beta, training))
