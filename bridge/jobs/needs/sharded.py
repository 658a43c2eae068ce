"""Memory of one rank, from what one process would need; docs/how-to/deepspeed.md has who
holds what.

Computed, never compared with a measurement: nothing has run on several GPUs.
"""

from __future__ import annotations

from dataclasses import replace

from bridge.jobs.needs.memory import CHECKPOINT_FILE_GIB, GIB, HOST_GIB, MemoryNeeds
from bridge.jobs.needs.shapes import ModelShape
from bridge.jobs.needs.weights import HELD
from bridge.store.settings import TrainingConfig

_SPREAD = ("optimizer", "adapter", "shadow", "reference", "gradients", "kv_cache", "logits")
_ON_HOST = ("master", "optimizer", "adapter", "shadow", "reference", "gradients")


def per_rank(
    memory: MemoryNeeds, training: TrainingConfig, shape: ModelShape, compute_bytes: int
) -> MemoryNeeds:
    """What one of the ranks needs; host and disk are those of all ranks together.

    Args:
        compute_bytes: of a weight in the precision that the model computes in.
    """
    sharding = training.sharding
    weights = shape.parameters * compute_bytes / GIB
    held = shape.parameters * HELD / GIB / sharding.ranks

    has_engine = training.engine == "vllm"

    def spread(parts: dict[str, float], *, update: bool) -> dict[str, float]:
        out = {n: v / sharding.ranks if n in _SPREAD else v for n, v in parts.items()}
        if "kv_cache" in out:  # rows beyond it wait for the next wave
            wanted = memory.rollout["kv_cache"] if has_engine else out["kv_cache"]
            out["kv_cache"] = min(wanted, training.kv_cache_gib)
        # While answers are drawn, every rank has the whole model: vLLM's own beside its shard, or
        # the trained one. What is gathered for vLLM passes before its cache is there.
        whole = sharding.stage == "zero2" or not (update or has_engine)
        out["weights"] = weights if whole else weights / sharding.ranks
        out["master"] = 2 * held  # ours, and DeepSpeed's own copy
        if "gradients" in out:
            out["gradients"] += held  # DeepSpeed's sum, beside what is taken from it
            out["bucket"] = 2 * shape.embedding_parameters * HELD / GIB
        if sharding.offload_optimizer:
            out = {name: value for name, value in out.items() if name not in _ON_HOST}
        return out

    update = spread(memory.update, update=True)
    before = {**memory.update, "master": 2 * held * sharding.ranks}
    if training.cpu_offload:  # counted among what waits on the host
        before.pop("optimizer", None)
    on_host = sum(before.get(name, 0.0) for name in _ON_HOST) if sharding.offload_optimizer else 0.0
    return replace(
        memory,
        update=update,
        rollout=spread(memory.rollout, update=False),
        # The first rank loads the whole model, as it is stored, and sends the others theirs. It
        # gathers a checkpoint file by file.
        host_gib=HOST_GIB * sharding.ranks
        + max(
            weights + (before["master"] if sharding.offload_optimizer else 0.0),
            memory.on_host_gib + on_host + CHECKPOINT_FILE_GIB,
        ),
    )
