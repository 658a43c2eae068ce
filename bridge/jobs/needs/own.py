"""What two kinds of methods hold beside weights, gradients and activations.

``mifo`` keeps two copies of the weights on the host, and makes a mask from them before each SFT
step. Self-distillation works on chunks of two models' logits.
"""

from __future__ import annotations

from dataclasses import replace

from bridge.jobs.needs.memory import GIB, HOST_GIB, LOGITS_AT_ONCE, MemoryNeeds
from bridge.jobs.needs.rows import rows_of
from bridge.jobs.needs.shapes import ModelShape
from bridge.jobs.needs.weights import HELD, trained_parameters, width_of
from bridge.methods.base import Method
from bridge.methods.mifo import MIFO
from bridge.methods.self_distillation import SelfDistillation
from bridge.plan.grid import RunSpec

_TENSORS = {"sampled": 5.0, "reverse": 7.5, "forward": 7.5, "js": 12.5}
"""Float32 tensors of a chunk's size that a form of the divergence holds at its worst moment."""


def with_own(needs: MemoryNeeds, spec: RunSpec, shape: ModelShape, method: Method) -> MemoryNeeds:
    """The needs of a run with what its method itself holds."""
    if isinstance(method, MIFO):
        return _spared(needs, shape.parameters, method)
    if isinstance(method, SelfDistillation):
        working = _chunk_bytes(spec, shape, method) / GIB
        least = max(working, needs.update.get("working", 0.0))
        return replace(needs, update={**needs.update, "working": least})
    return needs


def _spared(needs: MemoryNeeds, n: int, method: MIFO) -> MemoryNeeds:
    """With mifo's weights at the start and importance, and with the weights that an SFT step gives
    back to the parameters of its mask."""
    kept = 2 * n * HELD / GIB
    # Weights pass through the host when they are loaded, and are long gone when the mask is made.
    loading = needs.host_gib - needs.on_host_gib - HOST_GIB
    return replace(
        needs,
        update={**needs.update, "copies": n * (HELD + 1) / GIB},
        host_gib=HOST_GIB + needs.on_host_gib + kept + max(loading, mask_bytes(n, method) / GIB),
        on_host_gib=needs.on_host_gib + kept,
        disk_gib=needs.disk_gib + 2 * kept,
        checkpoint_gib=needs.checkpoint_gib + kept,
    )


def mask_bytes(n: int, method: MIFO) -> int:
    """Bytes on the host, beside what stays there, while a mask of n parameters is made: the change
    and all importances in one row, the mask, and value and place of each parameter in it."""
    frozen = round(method.options.freeze_share * n)
    return n * (2 * HELD + 1) + frozen * (HELD + 8)


def _chunk_bytes(spec: RunSpec, shape: ModelShape, method: SelfDistillation) -> int:
    """Bytes that the divergence works with at the worst moment of its backward pass."""
    training, rows = spec.training, rows_of(spec, shape)
    answers = training.prompts_per_step * method.options.n
    at_once = min(answers, training.micro_batch_rows)
    if training.micro_batch_tokens is not None:
        at_once = min(at_once, max(1, training.micro_batch_tokens // (rows.prompt + rows.answer)))
    scored = at_once * rows.answer
    chunk = min(scored, max(1, LOGITS_AT_ONCE // (2 * shape.vocab_size)))
    tensor = chunk * shape.vocab_size * HELD
    worked_on = int(_TENSORS[method.options.divergence] * tensor)
    if scored > chunk:
        # The output layer's gradient is there then, unless it is frozen; a chunk's is added to it
        # when most is free.
        head = 0 if training.trainable == "lora" else shape.embedding_parameters
        weight = head * width_of(training)
        worked_on = max(worked_on + weight, 2 * tensor + 3 * weight)
    # The first micro-batch's is done before there is a gradient of the weights.
    return worked_on - (trained_parameters(training, shape) * HELD if at_once == answers else 0)
