"""The predictions of a suite in words, and what of it cannot run on a device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from bridge.jobs.needs.devices import CPU, Device
from bridge.jobs.needs.prediction import USABLE, Prediction, predict
from bridge.plan.grid import Plan, RunSpec
from bridge.store.settings import ShardingConfig

_PARTS = ("weights", "master", "optimizer", "gradients", "shadow", "reference", "adapter")
_MOMENT = ("activations", "working", "engine", "kv_cache", "runtime")
_SHORT = {"optimizer": "optim", "gradients": "grads", "reference": "ref", "activations": "activ"}
_SEVERAL = (2, 4, 8)
"""Devices of one machine that are tried where one is too small."""
_SPREAD = {"engine": "native", "activation_checkpointing": True, "cpu_offload": True}
"""What goes with them."""
_SAVING: tuple[tuple[str, dict[str, Any]], ...] = (
    ("activation_checkpointing: true", {"activation_checkpointing": True}),
    ("cpu_offload: true", {"cpu_offload": True}),
    ("micro_batch_tokens: 1", {"micro_batch_tokens": 1}),
    ("precision: bfloat16", {"precision": "bfloat16"}),
)
"""From the cheapest in time to what changes results."""


def kinds_of_runs(plan: Plan) -> dict[str, list[RunSpec]]:
    """Runs that differ by their seed alone, under ``model/dataset/row``."""
    kinds: dict[str, list[RunSpec]] = {}
    for spec in plan.runs:
        kinds.setdefault(f"{spec.model}/{spec.dataset}/{spec.label}", []).append(spec)
    return kinds


def prediction_text(plan: Plan, device: Device | None) -> str:
    """A table of the kinds of run: peak memory by part in GiB, and hours on a named device."""
    kinds = kinds_of_runs(plan)
    found = {name: predict(specs[0], device) for name, specs in kinds.items()}
    columns = [*_PARTS, *_MOMENT]
    used = [c for c in columns if any(p.memory_gib.get(c, 0) for p in found.values())]
    where = "no device named"
    if device is not None:
        timed = f", {device.source}" if device.name == CPU else ""
        where = f"{device.name}, {device.memory_gib:.1f} GiB{timed}"
    lines = [
        f"predicted peak memory in GiB by part ({where}); host and disk beside it",
        _line(
            "run",
            ["peak", "at", *(_SHORT.get(c, c) for c in used), "host", "disk", "hours"],
        ),
    ]
    hours, disk = 0.0, 0.0
    for name, p in found.items():
        specs_of = kinds[name]
        seeds = len(specs_of)
        cells = [_number(p.memory_gib["total"]), p.phase]
        cells += [_number(p.memory_gib.get(c, 0.0)) for c in used]
        cells += [_number(p.host_gib), _number(p.disk_gib)]
        cells.append("-" if p.hours is None else f"{_number(p.hours['total'])} x {seeds}")
        lines.append(_line(name, cells))
        devices = specs_of[0].training.sharding.ranks
        hours += seeds * devices * (p.hours or {}).get("total", 0.0)
        disk += seeds * p.policy_gib
    if device is not None:
        whole = f"{hours:.0f}" if hours >= 10 else _number(hours)
        lines.append(f"all {len(plan.runs)} runs: {whole} device-hours of {device.name}")
    lines.append(
        f"disk for all trained policies: {disk:.1f} GiB; an unfinished run's checkpoints are the "
        "column disk"
    )
    return "\n".join(lines)


def refusals(plan: Plan, device: Device) -> Iterator[str]:
    """One sentence for each kind of run that does not fit the device."""
    for name, specs in kinds_of_runs(plan).items():
        found = predict(specs[0], device)
        if not found.fits(device):
            yield _refusal(name, specs[0], found, device)


def _refusal(name: str, spec: RunSpec, found: Prediction, device: Device) -> str:
    largest = sorted(((v, k) for k, v in found.memory_gib.items() if k != "total"), reverse=True)[
        :3
    ]
    parts = ", ".join(f"{k} {_number(v)}" for v, k in largest)
    return (
        f"{name} needs {_number(found.memory_gib['total'])} GiB in its {found.phase} ({parts}), "
        f"but {device.name} gives {_number(USABLE * device.memory_gib)} GiB; "
        f"{_remedy(spec, device)}."
    )


def _remedy(wanted: RunSpec, device: Device) -> str:
    """The first settings, one after the other, with which the run fits; else several devices."""
    spec, chosen = wanted, list[str]()
    for words, change in _SAVING:
        changed = _with(spec, change)
        if predict(changed, device).memory_gib == predict(spec, device).memory_gib:
            continue
        spec = changed
        chosen.append(words)
        if predict(spec, device).fits(device):
            return f"it fits with training: {{{', '.join(chosen)}}}"
    for ranks in _SEVERAL:
        sharding = ShardingConfig(stage="zero3", ranks=ranks)
        if predict(_with(wanted, {**_SPREAD, "sharding": sharding}), device).fits(device):
            told = ", ".join(f"{name}: {str(value).lower()}" for name, value in _SPREAD.items())
            return (
                f"it fits {ranks} of them with training: {{{told}, sharding: {{stage: zero3, "
                f"ranks: {ranks}}}}}"
            )
    least = _number(predict(spec, device).memory_gib["total"])
    return f"at least it needs {least} GiB: take a larger device"


def _with(spec: RunSpec, change: dict[str, Any]) -> RunSpec:
    return replace(spec, training=spec.training.model_copy(update=change))


def _line(name: str, cells: list[str]) -> str:
    return f"{name[:56]:<56}" + "".join(f"{cell:>9}" for cell in cells)


def _number(value: float) -> str:
    return "-" if value == 0 else f"{value:.2f}" if value < 1 else f"{value:.1f}"
