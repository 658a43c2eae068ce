"""Hours of a run on a device: arithmetic over throughput for training, bytes over bandwidth for
decoding, each at a stated share of what the maker gives. docs/memory.md has the formulas in words.
"""

from __future__ import annotations

from bridge.jobs.needs.devices import Device
from bridge.jobs.needs.memory import GIB
from bridge.jobs.needs.methods import StepCost, cost_of
from bridge.jobs.needs.phases import expected_steps
from bridge.jobs.needs.rows import MEAN_SHARE, Rows, rows_of
from bridge.jobs.needs.shapes import ModelShape
from bridge.methods.base import Method
from bridge.plan.grid import RunSpec
from bridge.step.rows import StepKind, Term

TRAIN_UTILISATION = 0.35
"""Of the dense bfloat16 throughput, in forward and backward passes."""
SCORE_UTILISATION = 0.45
"""The same in forward passes alone."""
DECODE_UTILISATION = 0.5
"""Of the memory's bandwidth, while answers are drawn token by token."""
NATIVE_UTILISATION = 0.1
"""The same with the native engine, which has no kernels of its own."""
_SYNC_S = 3.0
"""Seconds to push weights to the engine and to wake it, per step with rollouts."""
_QUESTIONS = 1517
"""Of the paper's five benchmarks; other families have about as many or fewer."""


def hours_of(spec: RunSpec, shape: ModelShape, method: Method, device: Device) -> dict[str, float]:
    """Hours by the clock by part, with ``total``; of several devices, all are taken so long."""
    training = spec.training
    rows, cost = rows_of(spec, shape), cost_of(method)
    seconds = {"rollout": 0.0, "update": 0.0, "sync": 0.0, "probe": 0.0, "evaluate": 0.0}
    draw_s = _decode_s(
        shape,
        device,
        answers=training.prompts_per_step * training.n,
        tokens=rows.mean_answer,
        context=rows.mean_prompt + rows.mean_answer,
        room_gib=training.kv_cache_gib if training.engine == "vllm" else None,
        c=_width(spec),
    )
    for phase, n in expected_steps(method).items():
        if phase.kind != "sft":
            seconds["rollout"] += n * draw_s * (2 if method.shadow_rollouts else 1)
            seconds["sync"] += n * _SYNC_S if training.engine == "vllm" else 0.0
        seconds["update"] += n * _update_s(spec, shape, cost, phase.kind, rows, device)
    probes = 1 + method.n_steps // training.probe_every if method.n_steps else 0
    seconds["probe"] = probes * draw_s * 2 * training.probe_size / _answers(spec)
    seconds["evaluate"] = _evaluate_s(spec, shape, device)
    for name in ("rollout", "update", "probe"):
        seconds[name] /= training.sharding.ranks
    hours = {name: value / 3600 for name, value in seconds.items()}
    return {**hours, "total": sum(hours.values())}


def _answers(spec: RunSpec) -> int:
    return spec.training.prompts_per_step * spec.training.n


def _width(spec: RunSpec) -> int:
    return 2 if spec.training.precision == "bfloat16" else 4


def _update_s(
    spec: RunSpec, shape: ModelShape, cost: StepCost, kind: StepKind, rows: Rows, device: Device
) -> float:
    training, passes = spec.training, cost.passes[kind]
    sizes: dict[Term, tuple[int, float]] = {
        "rl": (_answers(spec), rows.mean_prompt + rows.mean_answer),
        "demonstration": (training.sft_batch_size, rows.mean_prompt + rows.mean_demonstration),
    }
    # Forward 2, backward 4, and the forward pass once more where layers are recomputed.
    factor = 8 if training.activation_checkpointing else 6
    train, score = 0.0, 0.0
    for term, n in passes.items():
        count, length = sizes[term]
        per_pass = count * length * _forward_flops(shape, length) / 2
        epochs = training.ppo_epochs if "rl" in passes else 1
        train += epochs * n * factor * per_pass
        score += epochs * cost.scored.get(term, 0) * 2 * per_pass
        if term == "rl" and training.several_updates:
            score += 2 * per_pass  # of the policy before the first update
        if term == "rl" and training.kl_coef > 0:
            score += epochs * n * 2 * per_pass
    peak = device.tflops(training.precision) * 1e12
    return (train / TRAIN_UTILISATION + score / SCORE_UTILISATION) / peak


def _forward_flops(shape: ModelShape, length: float) -> float:
    """Operations per token of a forward pass: 2 per weight, and attention to half of the row."""
    matrices = shape.num_hidden_layers * sum(i * o for i, o in shape.linears)
    weights = matrices + shape.embedding_parameters
    return 2 * weights + 2 * shape.num_hidden_layers * shape.query_width * length


def _decode_s(
    shape: ModelShape,
    device: Device,
    *,
    answers: float,
    tokens: float,
    context: float,
    room_gib: float | None,
    c: int,
    batch: float | None = None,
) -> float:
    """Seconds to draw answers: each step reads all weights once, and the keys and values of the
    answers that decode at once.

    Args:
        tokens, context: mean length of an answer, and with its prompt.
        room_gib: memory of vLLM's cache, which says how many decode at once; None: the native
            engine, all at once.
        batch: answers that decode at once at most.
    """
    per_token = 2 * shape.num_hidden_layers * shape.key_width * c
    room = answers if room_gib is None else room_gib * GIB / (per_token * context)
    at_once = max(1.0, min(answers, room, batch or answers))
    bytes_per_step = shape.parameters * c + at_once * per_token * context
    share = NATIVE_UTILISATION if room_gib is None else DECODE_UTILISATION
    steps = tokens * answers / at_once
    read_s = bytes_per_step / (share * device.bandwidth_gbs * 1e9)
    # A GPU that decodes waits for its memory; a processor has no tensor cores to wait for.
    rate = device.bf16_tflops if device.float32_tflops is None else device.float32_tflops
    compute_s = at_once * _forward_flops(shape, context) / (SCORE_UTILISATION * rate * 1e12)
    return steps * max(read_s, compute_s)


def _evaluate_s(spec: RunSpec, shape: ModelShape, device: Device) -> float:
    evaluation = spec.evaluation
    asked = min(_QUESTIONS, 5 * (evaluation.questions or _QUESTIONS))
    sampled = 5 * evaluation.sampled_questions * evaluation.n_samples
    tokens = MEAN_SHARE * evaluation.max_response_tokens
    return _decode_s(
        shape,
        device,
        answers=asked + sampled,
        tokens=tokens,
        context=tokens,
        room_gib=evaluation.kv_cache_gib if evaluation.engine == "vllm" else None,
        c=_width(spec),
        batch=evaluation.batch_size if evaluation.engine == "hf" else None,
    )
