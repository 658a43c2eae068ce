"""Memory that ran out, as one sentence that says which settings need less."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Literal

from bridge.jobs.needs.report import may_train_factors
from bridge.plan.grid import RunSpec
from bridge.store.records import RecordError

_CPU = "DefaultCPUAllocator: can't allocate memory"
_WANTED = re.compile(r"[Tt]ried to allocate ([\d.]+ ?\w+)")
_TOTAL = re.compile(r"total capacity of ([\d.]+ \w+)")


class MemoryShortError(RecordError):
    """A device or the host has too little memory for a run; checkpoints are untouched."""


@contextlib.contextmanager
def memory_explained(spec: RunSpec, stage: Literal["train", "evaluate"]) -> Iterator[None]:
    """Turn PyTorch's report of a full memory into one sentence with the remedy.

    Raises:
        MemoryShortError: instead of it.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        on_device = type(error).__name__ == "OutOfMemoryError"  # of torch, which is not imported
        if not on_device and not isinstance(error, MemoryError) and _CPU not in text:
            raise
        what = "the device" if on_device else "the host"
        total, wanted = _TOTAL.search(text), _WANTED.search(text)
        of = f" ({total[1]})" if total else ""
        more = f" when {wanted[1]} more were wanted" if wanted else ""
        advice = _training(spec) if stage == "train" else _evaluation(spec)
        raise MemoryShortError(f"{what} ran out of memory{of}{more}; {advice}.") from error


def _training(spec: RunSpec) -> str:
    training = spec.training
    same = [
        f"{name}: true"
        for name in ("activation_checkpointing", "cpu_offload")
        if not getattr(training, name)
    ]
    other = []
    if training.micro_batch_tokens is None:
        other.append("a micro_batch_tokens")
    elif training.micro_batch_tokens > 1:
        other.append(f"a micro_batch_tokens below {training.micro_batch_tokens}")
    if training.engine == "vllm":
        other.append(f"a kv_cache_gib below {training.kv_cache_gib:g}")
    if training.precision == "float32":
        other.append("precision: bfloat16")
    if may_train_factors(spec):
        other.append("trainable: lora")
    parts = []
    if same:
        parts.append(f"set training.{' or '.join(same)} and the run continues from its checkpoint")
    if other:
        parts.append(f"{'or ' if same else ''}set training to {' or '.join(other)}, afresh")
    return ", ".join([*parts, "or take a larger device (bridge doctor --device NAME)"])


def _evaluation(spec: RunSpec) -> str:
    evaluation = spec.evaluation
    if evaluation.engine == "vllm":
        setting = f"kv_cache_gib, now {evaluation.kv_cache_gib:g}"
    else:
        setting = f"batch_size, now {evaluation.batch_size}"
    return f"lower evaluation.{setting}; the trained policy stays"
