"""Memory and hours of one run."""

from __future__ import annotations

from dataclasses import dataclass

from bridge.jobs.needs.devices import CPU, Device
from bridge.jobs.needs.hours import hours_of
from bridge.jobs.needs.memory import GIB, RUNTIME_GIB, MemoryNeeds, memory_of
from bridge.jobs.needs.own import with_own
from bridge.jobs.needs.rows import Rows
from bridge.jobs.needs.shapes import shape_of
from bridge.jobs.needs.sharded import per_rank
from bridge.methods.registry import load_method
from bridge.plan.grid import RunSpec

USABLE = 0.95
"""Share of a device's memory that can be filled: the rest is lost between blocks."""


@dataclass(frozen=True)
class Prediction:
    """What a run will need on one device."""

    memory_gib: dict[str, float]
    """Peak on the device by part, in the phase that needs most; ``total`` is their sum."""
    phase: str
    """``rollout``, ``update`` or ``evaluate``: which of them needs most."""
    update_gib: dict[str, float]
    rollout_gib: dict[str, float]
    evaluate_gib: dict[str, float]
    host_gib: float
    """Memory of the host."""
    disk_gib: float
    """Checkpoints and trained policy of a run while it is trained."""
    policy_gib: float
    """What stays of that when it is done."""
    hours: dict[str, float] | None
    """Hours on the device by part, with ``total``; None where no device is named."""
    parameters: int

    def fits(self, device: Device) -> bool:
        """Whether the peak is within what can be filled of the device's memory."""
        return self.memory_gib["total"] <= USABLE * device.memory_gib


def predict(spec: RunSpec, device: Device | None = None, rows: Rows | None = None) -> Prediction:
    """Predict one run on one device.

    Args:
        device: for the hours, and for what its libraries take besides tensors; None: a CPU.
        rows: lengths for the hours, where they are known better than the configuration tells.

    Raises:
        ConfigError: the model's shape is not known.
    """
    shape = shape_of(spec.model_config, f"models.{spec.model}")
    kind = load_method(spec.method)
    method = kind(kind.Options.model_validate(spec.method_options), spec.training, spec.seed)
    memory: MemoryNeeds = with_own(memory_of(spec, shape, method), spec, shape, method)
    sharding = spec.training.sharding
    if sharding.stage != "none":
        compute_bytes = 2 if spec.training.precision == "bfloat16" else 4
        memory = per_rank(memory, spec.training, shape, compute_bytes)
    phases = {
        "update": dict(memory.update),
        "rollout": dict(memory.rollout),
        "evaluate": dict(memory.evaluate),
    }
    for parts in phases.values():
        if device is not None and device.name != CPU:
            parts["runtime"] = RUNTIME_GIB
        parts["total"] = sum(parts.values())
    phase = max(phases, key=lambda name: phases[name]["total"])
    hours = None
    if device is not None:
        state_bytes = memory.checkpoint_gib * GIB
        hours = hours_of(spec, shape, method, device, state_bytes=state_bytes, rows=rows)
    return Prediction(
        memory_gib=phases[phase],
        phase=phase,
        update_gib=phases["update"],
        rollout_gib=phases["rollout"],
        evaluate_gib=phases["evaluate"],
        host_gib=memory.host_gib,
        disk_gib=memory.disk_gib,
        policy_gib=memory.policy_gib,
        hours=hours,
        parameters=shape.parameters,
    )
