"""Hours of a run on a device by part. docs/memory.md has the formulas in words, ``rates`` the
constants with their reasons.
"""

from __future__ import annotations

from math import prod

from bridge.jobs.needs.decoding import Decoder, forward_flops
from bridge.jobs.needs.devices import CPU, Device
from bridge.jobs.needs.methods import StepCost, cost_of
from bridge.jobs.needs.moving import checkpoint_s, gather_s, offload_s, optimizer_s
from bridge.jobs.needs.phases import expected_steps
from bridge.jobs.needs.rates import (
    ENGINE_START_S,
    GRADE_S,
    LAUNCH_LAYER_S,
    RECORDED_LAYER_S,
    SCORE_UTILISATION,
    SYNC_S,
    TRAIN_UTILISATION,
)
from bridge.jobs.needs.rows import MEAN_SHARE, Rows, rows_of
from bridge.jobs.needs.shapes import ModelShape
from bridge.jobs.needs.weights import width_of
from bridge.methods.base import Method
from bridge.plan.grid import RunSpec
from bridge.step.rows import StepKind, Term

_QUESTIONS = 1517
"""Of the paper's five benchmarks; other families have about as many or fewer."""


def hours_of(
    spec: RunSpec,
    shape: ModelShape,
    method: Method,
    device: Device,
    *,
    state_bytes: float,
    rows: Rows | None = None,
) -> dict[str, float]:
    """Hours by the clock by part, with ``total``; of several devices, all are taken so long.

    Args:
        state_bytes: of a checkpoint.
        rows: lengths, where they are known better than the configuration tells.
    """
    training, cost = spec.training, cost_of(method)
    width = width_of(training)
    rows = rows or rows_of(spec, shape)
    ranks = training.sharding.ranks
    answers = training.prompts_per_step * training.n
    cache_gib = training.kv_cache_gib if training.engine == "vllm" else None
    # A GPU that holds the whole model records the native engine's pass (bridge.models.decoding).
    recorded = training.sharding.stage == "none" and device.name != CPU
    layer_s = RECORDED_LAYER_S if recorded else LAUNCH_LAYER_S
    decoder = Decoder(shape, device, width, cache_gib, layer_s)
    seconds = dict.fromkeys(("rollout", "grade", "sync", "score", "update", "move"), 0.0)

    def draw_s(n: float) -> float:
        return decoder.draw_s(
            n / ranks, prompt=rows.mean_prompt, mean=rows.mean_answer, longest=rows.answer
        )

    for phase, n in expected_steps(method).items():
        if phase.kind != "sft":
            drawn = 2 if method.shadow_rollouts else 1
            seconds["rollout"] += n * drawn * draw_s(answers)
            seconds["grade"] += n * drawn * answers * GRADE_S
            seconds["sync"] += n * drawn * SYNC_S if training.engine == "vllm" else 0.0
        train_s, score_s = _passes_s(spec, shape, cost, phase.kind, rows, device)
        seconds["update"] += n * train_s / ranks
        seconds["score"] += n * score_s / ranks
        seconds["move"] += n * _moving_s(spec, shape, method, cost, phase.kind, rows, device)
    probes = 1 + method.n_steps // training.probe_every if method.n_steps else 0
    asked = 2 * training.probe_size
    seconds["probe"] = probes * (draw_s(asked) + asked * GRADE_S)
    seconds["checkpoint"] = checkpoint_s(
        state_bytes, shape.parameters * width, method.n_steps, training.checkpoint_every
    )
    seconds["evaluate"] = _evaluate_s(spec, shape, device)
    engines = [training.engine] * (method.n_steps > 0) + [spec.evaluation.engine]
    seconds["start"] = ENGINE_START_S * engines.count("vllm")
    hours = {name: value / 3600 for name, value in seconds.items()}
    return {**hours, "total": sum(hours.values())}


def _passes_s(
    spec: RunSpec, shape: ModelShape, cost: StepCost, kind: StepKind, rows: Rows, device: Device
) -> tuple[float, float]:
    """Seconds of one device for a step's passes with a gradient, and for those without."""
    training, passes = spec.training, cost.passes[kind]
    # Forward 2, backward 4, and the forward pass once more where layers are recomputed.
    factor = 8 if training.activation_checkpointing else 6
    train, score = 0.0, 0.0
    for term, n in passes.items():
        count, length = _trained(spec, rows, term)
        per_pass = count * length * forward_flops(shape, length) / 2
        epochs = training.ppo_epochs if "rl" in passes else 1
        train += epochs * n * factor * per_pass
        score += epochs * cost.scored.get(term, 0) * 2 * per_pass
        if term == "rl" and training.several_updates:
            score += 2 * per_pass  # of the policy before the first update
        if term == "rl" and training.kl_coef > 0:
            score += epochs * n * 2 * per_pass
    peak = device.tflops(training.precision) * 1e12
    return train / (TRAIN_UTILISATION * peak), score / (SCORE_UTILISATION * peak)


def _trained(spec: RunSpec, rows: Rows, term: Term) -> tuple[int, float]:
    """Rows of a term in a step, and their mean length."""
    training = spec.training
    if term == "rl":
        return training.prompts_per_step * training.n, rows.mean_prompt + rows.mean_answer
    return training.sft_batch_size, rows.mean_prompt + rows.mean_demonstration


def _moving_s(
    spec: RunSpec,
    shape: ModelShape,
    method: Method,
    cost: StepCost,
    kind: StepKind,
    rows: Rows,
    device: Device,
) -> float:
    """Seconds of a step in which weights are moved: between memories, between devices, and by the
    optimisers."""
    training, passes = spec.training, cost.passes[kind]
    updates = 1
    if "rl" in passes and training.several_updates:
        size = training.ppo_mini_batch_size or training.prompts_per_step
        updates = training.ppo_epochs * -(-training.prompts_per_step // size)
    tokens = sum(n * prod(_trained(spec, rows, term)) for term, n in passes.items())
    shadowed = (method.uses_shadow or method.forks_shadow) and kind == "joint"
    return (
        updates * optimizer_s(training, shape, device, shadowed=shadowed)
        + updates * offload_s(training, shape, passes, shadowed=shadowed)
        + gather_s(training, shape.parameters * width_of(spec.training), tokens)
    )


def _evaluate_s(spec: RunSpec, shape: ModelShape, device: Device) -> float:
    evaluation = spec.evaluation
    asked = min(_QUESTIONS, 5 * (evaluation.questions or _QUESTIONS))
    answers = asked + 5 * evaluation.sampled_questions * evaluation.n_samples
    vllm = evaluation.engine == "vllm"
    decoder = Decoder(
        shape, device, width_of(spec.training), evaluation.kv_cache_gib if vllm else None
    )
    longest = min(evaluation.max_response_tokens, shape.max_position_embeddings)
    drawn_s = decoder.draw_s(
        answers,
        prompt=0.0,
        mean=MEAN_SHARE * longest,
        longest=longest,
        batch=None if vllm else evaluation.batch_size,
    )
    return drawn_s + answers * GRADE_S
