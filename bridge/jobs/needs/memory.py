"""Memory of a run by part, from its configuration. docs/memory.md has the formulas in words.

Counted is what PyTorch allocates on the device, at the worst moment of an update and of a rollout:
the longest rows, as many as a micro-batch may hold.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bridge.jobs.needs.methods import cost_of
from bridge.jobs.needs.rows import Rows, rows_of
from bridge.jobs.needs.shapes import ModelShape
from bridge.jobs.needs.weights import (
    HELD,
    WeightBytes,
    trained_parameters,
    weights_of,
    width_of,
)
from bridge.methods.base import Method
from bridge.plan.grid import RunSpec
from bridge.step.rows import Term
from bridge.store.settings import TrainingConfig

GIB = 2**30
RUNTIME_GIB = 1.0
"""CUDA's own context and the libraries' work space, which no tensor accounts for."""
ENGINE_GIB = 1.5
"""vLLM besides weights and cache: activations of its largest batch, and its recorded graphs."""
HOST_GIB = 4.0
"""Python, its libraries and the data sets."""
CHECKPOINT_FILE_GIB = 4.0
"""As :data:`bridge.models.resuming.FILE_BYTES`; a test holds them equal."""
LOGITS_AT_ONCE = 2**26
"""As :data:`bridge.step.scoring.LOGITS_AT_ONCE`, which needs torch to be read; a test holds
them equal."""


@dataclass(frozen=True)
class MemoryNeeds:
    """GiB by part."""

    update: dict[str, float]
    rollout: dict[str, float]
    evaluate: dict[str, float]
    """Of the process that evaluates, after training."""
    host_gib: float
    on_host_gib: float
    """Of it what waits there for good, instead of on the device."""
    disk_gib: float
    policy_gib: float
    checkpoint_gib: float
    """Of one checkpoint."""


def memory_of(spec: RunSpec, shape: ModelShape, method: Method) -> MemoryNeeds:
    """The parts of a run's memory."""
    training, c = spec.training, width_of(spec.training)
    rows = rows_of(spec, shape)
    if method.n_steps == 0:
        return _untrained(spec, shape, rows, c)
    bytes_of = weights_of(training, shape, method)
    held, on_host = _places(training, bytes_of, method)
    terms = cost_of(method).terms
    rollout = {
        **held,
        # A shadow that is made anew is there in the update only.
        "shadow": held["shadow"] if method.uses_shadow else 0,
        # Also where no step draws: the probes do.
        **_rollout(spec, shape, rows, c),
    }
    held["gradients"] = bytes_of.gradients
    # When nothing is kept for a backward pass any more, directions are made, and moments that wait
    # come weight by weight.
    made = {**held, "gradients": max(bytes_of.gradients, bytes_of.combined)}
    if training.cpu_offload:
        made["optimizer"] = bytes_of.one_moment
    backward = {**held, **_backward(spec, shape, rows, c, terms)}
    update = max(backward, made, key=lambda parts: sum(parts.values()))
    # Two checkpoints are kept: held weights, moments, adapter and shadow with theirs, reference.
    state = bytes_of.trained + bytes_of.moments + bytes_of.reference
    state += bytes_of.adapter + bytes_of.adapter_moments
    state += (bytes_of.shadow + bytes_of.shadow_moments) if method.uses_shadow else 0
    loaded = shape.parameters * (HELD if training.trainable == "full" else c)
    return MemoryNeeds(
        update=_gib(update),
        rollout=_gib(rollout),
        evaluate=_gib(_evaluate(spec, shape, rows, c)),
        # Weights pass through the host when they are loaded, a checkpoint file by file.
        host_gib=HOST_GIB + on_host / GIB + max(loaded / GIB, CHECKPOINT_FILE_GIB),
        on_host_gib=on_host / GIB,
        disk_gib=(bytes_of.model + 2 * state) / GIB,
        policy_gib=bytes_of.model / GIB,
        checkpoint_gib=state / GIB,
    )


def _places(
    training: TrainingConfig, weights: WeightBytes, method: Method
) -> tuple[dict[str, int], int]:
    """What a device holds between passes by part, and what waits on the host instead.

    With ``cpu_offload`` all moments wait; in one process reference and frozen weights too, and the
    shadow of all weights.
    """
    alone, waiting = training.sharding.stage == "none", training.cpu_offload
    lora = training.trainable == "lora"
    away = waiting and alone
    shadow_away = away and not lora
    # A shadow for good has moments for good; one that is made in each step has fresh ones.
    shadow = weights.shadow + weights.shadow_moments
    if lora:
        master = weights.trained + (0 if away else weights.frozen)
    else:
        beside = method.adapter or weights.model != weights.trained or (away and shadow)
        master = weights.trained if beside else 0
    shadow_waits = waiting and (lora or method.uses_shadow)
    held = {
        "weights": weights.model,
        "master": master,
        "optimizer": 0 if waiting else weights.moments,
        "adapter": weights.adapter + (0 if waiting else weights.adapter_moments),
        "shadow": 0 if shadow_away else weights.shadow if shadow_waits else shadow,
        "reference": 0 if away else weights.reference,
    }
    on_host = (weights.reference + weights.frozen) if away else 0
    on_host += shadow if shadow_away else 0
    if waiting:
        on_host += weights.moments + weights.adapter_moments
        on_host += weights.shadow_moments if shadow_waits and not shadow_away else 0
    return held, on_host


def _untrained(spec: RunSpec, shape: ModelShape, rows: Rows, c: int) -> MemoryNeeds:
    """A run of the base model alone is measured once before its evaluation."""
    weights = {"weights": shape.parameters * c}
    return MemoryNeeds(
        update=_gib(weights),
        rollout=_gib({**weights, **_rollout(spec, shape, rows, c)}),
        evaluate=_gib(_evaluate(spec, shape, rows, c)),
        host_gib=HOST_GIB,
        on_host_gib=0.0,
        disk_gib=0.0,
        policy_gib=0.0,
        checkpoint_gib=0.0,
    )


def _backward(
    spec: RunSpec, shape: ModelShape, rows: Rows, c: int, terms: Iterable[Term]
) -> dict[str, int]:
    """What a micro-batch keeps, and what its backward pass works with at the worst moment."""
    training = spec.training
    frozen = training.trainable == "lora"
    tokens, scored, alone = micro_batch_tokens(training, rows, terms)
    layer = layer_bytes(shape, c, frozen=frozen)
    # Gradients that walk back through one layer: the widest are the MLP's.
    walking = 3 * shape.intermediate_size * c
    kept = shape.num_hidden_layers * layer
    if training.activation_checkpointing:
        kept = shape.num_hidden_layers * shape.hidden_size * c
        walking += layer
    ends = ((HELD if frozen else 2 * HELD) + c) * shape.hidden_size  # the final norm
    if training.sharding.stage != "none":
        head = logits_bytes(shape, tokens, c)
    else:
        head = packed_logits_bytes(shape, scored, c, frozen=frozen)
    gradient = trained_parameters(training, shape) * HELD
    return {
        "activations": tokens * (kept + ends),
        # The output layer is done before the layers are walked through. The first micro-batch's is
        # done before there is a gradient of the weights.
        "working": max(head - (gradient if alone else 0), tokens * walking),
    }


def micro_batch_tokens(
    training: TrainingConfig, rows: Rows, terms: Iterable[Term]
) -> tuple[int, int, bool]:
    """Tokens of the largest micro-batch, padding included; those of them that are scored; and
    whether its term has no other."""
    sizes = {
        "rl": (training.prompts_per_step * training.n, rows.answer),
        "demonstration": (training.sft_batch_size, rows.demonstration),
    }
    found = []
    for count, scored in (sizes[term] for term in terms):
        held, longest = min(count, training.micro_batch_rows), rows.prompt + scored
        if training.micro_batch_tokens is not None:
            held = min(held, max(1, training.micro_batch_tokens // longest))
        found.append((held * longest, held * scored, held == count))
    return max(found, key=lambda sizes: (sizes[0], not sizes[2]))


def layer_bytes(shape: ModelShape, c: int, *, frozen: bool = False) -> int:
    """Bytes per token that one layer keeps for its backward pass.

    Each norm keeps its input in float32, its normalised input unless its weight is frozen, and its
    output; attention keeps queries, keys, values and its output, the MLP four of its inner tensors.
    """
    h, a, k, m = shape.hidden_size, shape.query_width, shape.key_width, shape.intermediate_size
    normalised = 0 if frozen else c
    norms = 2 * (HELD + normalised + c) * h
    attention = c * (2 * a + 2 * k) + HELD * shape.num_attention_heads
    if shape.architecture == "qwen3":  # a norm of each head's queries and keys
        attention += (HELD + normalised) * (a + k)
    return norms + attention + c * 4 * m


def packed_logits_bytes(shape: ModelShape, scored: int, c: int, *, frozen: bool) -> int:
    """Bytes at the worst moment of the output layer's backward pass, which takes the scored tokens
    only, chunk by chunk: a chunk in float32, and as it was multiplied; the weight's gradient, and a
    chunk's part of it."""
    rounded = c if c != HELD else 0
    at_once = min(scored * shape.vocab_size, LOGITS_AT_ONCE)
    gradient = 0 if frozen else shape.embedding_parameters * (HELD + c)
    return at_once * (HELD + rounded) + gradient


def logits_bytes(shape: ModelShape, tokens: int, c: int) -> int:
    """The same where rows are not packed, as with several ranks: of all tokens."""
    at_once = tokens * shape.vocab_size
    rounded = c if c != HELD else 0
    if at_once <= LOGITS_AT_ONCE:
        # Logits and their gradient; of 512 tokens five float32 tensors, one more if they were cast.
        worked_on = min(tokens, 512) * shape.vocab_size * HELD
        return at_once * 2 * c + worked_on * (6 if rounded else 5)
    # A chunk in float32, and as it was multiplied; the weight's gradient, and a chunk's part of it.
    return LOGITS_AT_ONCE * (HELD + rounded) + shape.embedding_parameters * (HELD + c)


def _rollout(spec: RunSpec, shape: ModelShape, rows: Rows, c: int) -> dict[str, int]:
    training = spec.training
    if training.engine == "vllm":
        return {
            "engine": int(ENGINE_GIB * GIB) + shape.parameters * c,
            "kv_cache": int(training.kv_cache_gib * GIB),
        }
    drawn = training.prompts_per_step * training.n
    logits = 4 * drawn * shape.vocab_size * HELD
    return {
        "kv_cache": drawn * (rows.prompt + rows.answer) * _cache_bytes(shape, c),
        "logits": logits,
    }


def _evaluate(spec: RunSpec, shape: ModelShape, rows: Rows, c: int) -> dict[str, int]:
    evaluation = spec.evaluation
    weights = shape.parameters * c
    if evaluation.engine == "vllm":
        cache = int(evaluation.kv_cache_gib * GIB)
        return {"engine": int(ENGINE_GIB * GIB) + weights, "kv_cache": cache}
    length = rows.prompt + evaluation.max_response_tokens
    cache = evaluation.batch_size * length * _cache_bytes(shape, c)
    return {"weights": weights, "kv_cache": cache}


def _cache_bytes(shape: ModelShape, c: int) -> int:
    """Keys and values of one token in all layers."""
    return 2 * shape.num_hidden_layers * shape.key_width * c


def _gib(parts: dict[str, int]) -> dict[str, float]:
    return {name: value / GIB for name, value in parts.items() if value}
