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
HELD = 4
"""Bytes of a held weight, of its gradient and of each of Adam's two moments: float32."""


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
    training = spec.training
    n, c = shape.parameters, 2 if training.precision == "bfloat16" else HELD
    rows = rows_of(spec, shape)
    if method.n_steps == 0:
        return _untrained(spec, shape, rows, c)
    cost, alone = cost_of(method), training.sharding.stage == "none"
    waiting = training.cpu_offload
    lora = method.adapter is not None and not method.adapter.full
    adapter = 0
    if method.adapter is not None:
        adapter = shape.lora_parameters(method.adapter.rank) if lora else n
    shadowed = method.uses_shadow or method.forks_shadow
    moments = n * 2 * HELD * cost.optimizers_at_once
    reference = n * c if training.kl_coef > 0 or method.uses_reference else 0
    # A shadow for good has moments for good; one that is made in each step has fresh ones.
    shadow = n * HELD * 3 if shadowed else 0
    # With cpu_offload all moments wait on the host, and in one process shadow and reference too.
    away = waiting and alone
    held = {
        "weights": n * c,
        "master": n * HELD if method.adapter or c != HELD or (away and shadowed) else 0,
        "optimizer": 0 if waiting else moments,
        "adapter": adapter * HELD * (1 if waiting else 3),
        "shadow": 0 if away else n * HELD if waiting and method.uses_shadow else shadow,
        "reference": 0 if away else reference,
    }
    gradients = n * HELD * cost.gradients_at_once + (adapter * HELD if lora else 0)
    rollout = {
        **held,
        # A shadow that is made anew is there in the update only.
        "shadow": held["shadow"] if method.uses_shadow else 0,
        # Also where no step draws: the probes do.
        **_rollout(spec, shape, rows, c),
    }
    update = {**held, "gradients": gradients, **_backward(spec, shape, rows, c, cost.terms)}
    if waiting:
        # The moments of one optimiser come when nothing is kept for a backward pass any more.
        step = {**held, "gradients": gradients, "optimizer": n * 2 * HELD}
        update = max(update, step, key=lambda parts: sum(parts.values()))
    on_host = (shadow + reference) if away else 0
    if waiting:
        own = 0 if alone or not method.uses_shadow else n * 2 * HELD
        on_host += moments + adapter * HELD * 2 + own
    # Two checkpoints are kept: held weights, moments, adapter and shadow with theirs, reference.
    state = n * HELD + moments + adapter * HELD * 3 + reference
    state += shadow if method.uses_shadow else 0
    return MemoryNeeds(
        update=_gib(update),
        rollout=_gib(rollout),
        evaluate=_gib(_evaluate(spec, shape, rows, c)),
        # Weights pass through the host when they are loaded, a checkpoint file by file.
        host_gib=HOST_GIB + on_host / GIB + max(n * HELD / GIB, CHECKPOINT_FILE_GIB),
        on_host_gib=on_host / GIB,
        disk_gib=(n * c + 2 * state) / GIB,
        policy_gib=n * c / GIB,
        checkpoint_gib=state / GIB,
    )


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
    tokens, alone = micro_batch_tokens(training, rows, terms)
    layer = layer_bytes(shape, c)
    # Gradients that walk back through one layer: the widest are the MLP's.
    walking = 3 * shape.intermediate_size * c
    kept = shape.num_hidden_layers * layer
    if training.activation_checkpointing:
        kept = shape.num_hidden_layers * shape.hidden_size * c
        walking += layer
    ends = (2 * HELD + c) * shape.hidden_size  # the final norm
    return {
        "activations": tokens * (kept + ends),
        # The output layer is done before the layers are walked through. The first micro-batch's is
        # done before there is a gradient of the weights.
        "working": max(
            logits_bytes(shape, tokens, c) - (shape.parameters * HELD if alone else 0),
            tokens * walking,
        ),
    }


def micro_batch_tokens(
    training: TrainingConfig, rows: Rows, terms: Iterable[Term]
) -> tuple[int, bool]:
    """Tokens of the largest micro-batch, padding included, and whether its term has no other."""
    sizes = {
        "rl": (training.prompts_per_step * training.n, rows.prompt + rows.answer),
        "demonstration": (training.sft_batch_size, rows.prompt + rows.demonstration),
    }
    found = []
    for count, longest in (sizes[term] for term in terms):
        held = min(count, training.micro_batch_rows)
        if training.micro_batch_tokens is not None:
            held = min(held, max(1, training.micro_batch_tokens // longest))
        found.append((held * longest, held == count))
    return max(found, key=lambda pair: (pair[0], not pair[1]))


def layer_bytes(shape: ModelShape, c: int) -> int:
    """Bytes per token that one layer keeps for its backward pass.

    Each norm keeps its input in float32, its normalised input and its output; attention keeps
    queries, keys, values and its output, the MLP four of its inner tensors.
    """
    h, a, k, m = shape.hidden_size, shape.query_width, shape.key_width, shape.intermediate_size
    norms = 2 * (HELD * h + 2 * c * h)
    attention = c * (2 * a + 2 * k) + HELD * shape.num_attention_heads
    if shape.architecture == "qwen3":  # a norm of each head's queries and keys
        attention += (HELD + c) * (a + k)
    return norms + attention + c * 4 * m


def logits_bytes(shape: ModelShape, tokens: int, c: int) -> int:
    """Bytes at the worst moment of the output layer's backward pass."""
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
