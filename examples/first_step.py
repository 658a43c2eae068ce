"""Two steps of BRIDGE on a model that is made on the spot, printed equation by equation.

    python examples/first_step.py

The task is to name an even digit. The model has random weights, so some of its answers earn the
reward and some do not. Everything a training step needs is below: rollouts, advantages, rows,
gradients, updates. Left out is what ``bridge/run`` adds around it: the data stream, the grader,
probes and checkpoints. Equation numbers are those of arXiv 2509.06948 (May-2025 text); the same
update with all its options is ``bridge/methods/bridge.py``.
"""

from __future__ import annotations

from pathlib import Path

from bridge.engines.native import NativeEngine
from bridge.models.checkpoint import Policy
from bridge.models.tiny import build_model, build_tokenizer
from bridge.step.batches import StepBatch
from bridge.step.gradients import Gradient
from bridge.step.objectives.advantages import group_advantages
from bridge.step.rollouts import Prompt
from bridge.step.rows import Phase, Row
from bridge.step.trainer import Trainer
from bridge.step.weights import ADAPTER, BASE, SHADOW, WholeWeights
from bridge.store.settings import TrainingConfig
from bridge.tasks.base import Problem

LAMBDA = 0.5
"""Weight of RL against SFT, equations 6 to 8."""
PHASE = Phase("joint")
PROBLEM = Problem(
    id="even", question="name an even digit", answer="4", difficulty=1, demonstration="the digit 4"
)
TRAINING = TrainingConfig(
    n=8,  # rollouts per prompt
    max_response_tokens=4,
    lr_sft=1e-2,
    lr_rl=1e-2,
    probe_every=1,
    checkpoint_every=1,
)


def make_weights() -> WholeWeights:
    """theta (a random qwen2), w (LoRA factors with product zero), theta-hat (equal to theta)."""
    words = ["name", "an", "even", "digit", "the", "is", *"0123456789"]
    tokenizer = build_tokenizer(words, context_tokens=32)
    model = build_model(
        "qwen2", tokenizer=tokenizer, hidden=32, layers=1, heads=2, context_tokens=32, seed=0
    )
    policy = Policy(model.eval(), tokenizer, Path(), end_token_ids=(tokenizer.eos_token_id,))
    return WholeWeights(policy, adapter=(4, 4, "all-linear"), shadow=True)


def reward(answer: str) -> float:
    """R(answer): 1 if its last word is an even digit, else 0. A real run asks bridge.grading."""
    words = answer.split()
    return float(bool(words) and words[-1] in ("0", "2", "4", "6", "8"))


def draw_batch(weights: WholeWeights, step: int) -> StepBatch:
    """Sample answers from pi(. | x; theta, w) and make the rows of one update."""
    policy = weights.sampler
    engine = NativeEngine(
        policy.model,
        end_token_ids=policy.end_token_ids,
        pad_token_id=policy.pad_token_id,
        refresh=weights.refresh,
    )
    engine.sync()  # the sampling model becomes theta + w
    prompt_ids = tuple(policy.prompt_ids(PROBLEM.question))
    seeds = tuple(TRAINING.n * step + k for k in range(TRAINING.n))
    (completions,) = engine.generate(
        [Prompt(prompt_ids, seeds)],
        max_new_tokens=TRAINING.max_response_tokens,
        temperature=TRAINING.temperature,
    )
    rewards = [reward(policy.text(list(c.ids))) for c in completions]
    rollouts = [
        Row(
            kind="rollout",
            problem=PROBLEM,
            prompt_ids=prompt_ids,
            response_ids=completion.ids,
            reward=r,
            advantage=advantage,
            sampled_logprobs=completion.logprobs,
        )
        for completion, r, advantage in zip(
            completions, rewards, group_advantages(rewards, norm_by_std=True), strict=True
        )
    ]
    demonstration = Row(
        kind="demonstration",
        problem=PROBLEM,
        prompt_ids=prompt_ids,
        response_ids=tuple(policy.completion_ids(PROBLEM.demonstration or "")),
    )
    return StepBatch(rows=(*rollouts, demonstration))


def bridge_step(trainer: Trainer, batch: StepBatch) -> dict[str, Gradient]:
    """One simultaneous update of theta, w and theta-hat. Gradients are of losses, L = -J.

    Returns:
        The three gradients and the directions made from them, by the names that are printed.
    """
    rl = trainer.gradient("rl", batch)
    sft = trainer.gradient("demonstration", batch)
    with trainer.shadow_active():  # theta-hat in the place of theta, under the same w
        hat = trainer.gradient("rl", batch, old_logprobs=rl.logprobs)

    joint = (1 - LAMBDA) * sft.gradient + LAMBDA * rl.gradient
    student = joint.only(BASE)  # eq. 7
    gain = rl.gradient.only(ADAPTER) - hat.gradient.only(ADAPTER)  # cooperative gain, eq. 10
    teacher = (1 - LAMBDA) * sft.gradient.only(ADAPTER) + LAMBDA * gain  # eq. 8
    shadow = hat.gradient.only(BASE)  # eq. 9

    trainer.descend(BASE, student, PHASE)
    trainer.descend(ADAPTER, teacher, PHASE)
    trainer.descend(SHADOW, shadow, PHASE)
    return {
        "rl": rl.gradient,
        "sft": sft.gradient,
        "hat": hat.gradient,
        "student": student,
        "gain": gain,
        "teacher": teacher,
        "shadow": shadow,
    }


def print_batch(weights: WholeWeights, batch: StepBatch) -> None:
    for row in batch.rows:
        text = weights.sampler.text(list(row.response_ids))
        graded = "" if row.reward is None else f"R {row.reward:.0f}  A {row.advantage:+.2f}  "
        print(f"  {row.kind:<14}{graded:<16}{text}")


def print_step(made: dict[str, Gradient]) -> None:
    """Norms in the order of the paper's equations."""

    def norms(name: str) -> str:
        gradient = made[name]
        return f"{gradient.norm(BASE):.4f} by theta, {gradient.norm(ADAPTER):.4f} by w"

    print(f"  eq. 1   |grad J_RL(theta, w)|       {norms('rl')}")
    print(f"  eq. 3   |grad J_SFT(theta, w)|      {norms('sft')}")
    print(f"  eq. 5   |grad J_RL(theta-hat, w)|   {norms('hat')}")
    print(f"  eq. 7   theta moves by SFT and RL   {made['student'].norm(BASE):.4f}")
    print(f"  eq. 8   w moves by SFT and gain     {made['teacher'].norm(ADAPTER):.4f}", end="")
    print(f", of which the gain {LAMBDA * made['gain'].norm(ADAPTER):.4f}")
    print(f"  eq. 9   theta-hat moves by RL       {made['shadow'].norm(BASE):.4f}")


def main() -> None:
    weights = make_weights()
    trainer = Trainer(weights, TRAINING)
    sizes = ", ".join(f"{n:,} in {group}" for group, n in weights.sizes.items())
    print(f"weights: {sizes}")
    for step in (1, 2):
        trainer.begin_step(step, 2)
        batch = draw_batch(weights, step)
        print(f"\nstep {step}")
        print_batch(weights, batch)
        print_step(bridge_step(trainer, batch))
        print(f"  |theta - theta-hat| {weights.shadow_distance():.4f}", end="")
        print(f", |s B A| {weights.adapter_norm():.4f}")


if __name__ == "__main__":
    main()
