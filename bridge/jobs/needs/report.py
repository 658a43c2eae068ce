"""The predictions of a suite in words, and what of it cannot run on a device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

from pydantic import ValidationError

from bridge.jobs.needs.devices import CPU, Device
from bridge.jobs.needs.prediction import USABLE, Prediction, predict
from bridge.methods.registry import load_method
from bridge.plan.grid import Plan, RunSpec
from bridge.store.schema import ConfigError
from bridge.store.settings import ShardingConfig, TrainingConfig

_PARTS = ("weights", "master", "optimizer", "gradients", "shadow", "reference", "adapter")
_MOMENT = ("activations", "working", "engine", "kv_cache", "runtime")
_SHORT = {"optimizer": "optim", "gradients": "grads", "reference": "ref", "activations": "activ"}
_SEVERAL = (2, 4, 8)
"""Devices of one machine that are tried where one is too small."""
_Change = tuple[str, dict[str, Any]]
"""Settings of ``training`` in words, and as they are set."""
_RECOMPUTE: _Change = ("activation_checkpointing: true", {"activation_checkpointing": True})
_OFFLOAD: _Change = ("cpu_offload: true", {"cpu_offload": True})
_CACHE: _Change = ("kv_cache_gib: 2", {"kv_cache_gib": 2.0})
_SAVING: tuple[_Change, ...] = (
    _RECOMPUTE,
    _OFFLOAD,
    ("micro_batch_tokens: 1", {"micro_batch_tokens": 1}),
    _CACHE,
    ("precision: bfloat16", {"precision": "bfloat16"}),
    ("optimizer: adamw_8bit", {"optimizer": "adamw_8bit"}),
)
"""From the cheapest in time to what changes results."""
_SPREADING: tuple[tuple[_Change, ...], ...] = (
    (_RECOMPUTE, _OFFLOAD),
    (_RECOMPUTE, _OFFLOAD, _CACHE),
)
"""What goes with several devices: the engine stays, with a smaller cache where it has to."""
_LORA: _Change = ("trainable: lora", {"trainable": "lora"})
"""Another thing to train, so it is told beside what trains all weights."""


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
    """The settings with which the run fits one device or several, all weights being trained; where
    it takes several, or none would do, also those with factors."""
    wanted, cache = _smaller_evaluation(wanted, device)
    words, least = _savings(wanted, device, ())
    if words is not None:
        settings = [cache] * bool(cache) + [f"training: {{{words}}}"] * bool(words)
        return f"it fits with {' and '.join(settings)}"
    several, lora = _several(wanted, device), None
    if may_train_factors(wanted):
        lora, small = _savings(_with(wanted, _LORA[1]), device, (_LORA[0],))
        least = min(least, small)
    ways = [] if several is None else [several]
    ways += [] if lora is None else [f"one with training: {{{lora}}}"]
    if ways:
        return f"it fits {', or '.join(ways)}" + (f", and {cache}" if cache else "")
    return f"it needs at least {_number(least)} GiB: take a larger device"


def _smaller_evaluation(spec: RunSpec, device: Device) -> tuple[RunSpec, str]:
    """The run with as large a cache of vLLM's as its evaluation has room for, and that setting in
    words; as it is where it fits, or would with none."""
    needs, chosen = predict(spec, device).evaluate_gib, spec.evaluation
    room = int(USABLE * device.memory_gib - needs["total"] + chosen.kv_cache_gib)
    if chosen.engine != "vllm" or not 1 <= room < chosen.kv_cache_gib:
        return spec, ""
    smaller = chosen.model_copy(update={"kv_cache_gib": float(room)})
    return replace(spec, evaluation=smaller), f"evaluation: {{kv_cache_gib: {room}}}"


def _savings(spec: RunSpec, device: Device, chosen: tuple[str, ...]) -> tuple[str | None, float]:
    """The first settings, one after the other, with which a run fits; and GiB with the last."""
    found = predict(spec, device)
    for words, change in _SAVING:
        if found.fits(device):
            break
        changed = _with(spec, change)
        smaller = predict(changed, device)
        if smaller.memory_gib != found.memory_gib and _accepted(changed):
            spec, found, chosen = changed, smaller, (*chosen, words)
    return (", ".join(chosen) if found.fits(device) else None), found.memory_gib["total"]


def _several(wanted: RunSpec, device: Device) -> str | None:
    """How many devices hold the run, with what settings."""
    found = _spread(wanted, device, max(_SEVERAL))
    if found is None:
        return None
    spec, words = found
    return f"{spec.training.sharding.ranks} of them with training: {{{words}}}"


def _spread(wanted: RunSpec, device: Device, most: int) -> tuple[RunSpec, str] | None:
    """The run on as few of several devices as hold it, and the settings for that in words."""
    for ranks, changes in product((n for n in _SEVERAL if n <= most), _SPREADING):
        spread = _with(wanted, {"sharding": ShardingConfig(stage="zero3", ranks=ranks)})
        for _, change in changes:
            spread = _with(spread, change)
        if _accepted(spread) and predict(spread, device).fits(device):
            told = [*(words for words, _ in changes), f"sharding: {{stage: zero3, ranks: {ranks}}}"]
            return spread, ", ".join(told)
    return None


def fitted(spec: RunSpec, device: Device, most: int) -> tuple[RunSpec, str] | None:
    """The run as it fits one device or, with all weights trained, up to ``most`` of them.

    Returns:
        It and the settings in words, none where it fits as it is; None where it does not.
    """
    if spec.training.sharding.ranks <= most and predict(spec, device).fits(device):
        return spec, ""
    smaller, cache = _smaller_evaluation(spec, device)
    if cache and predict(smaller, device).fits(device):
        return smaller, cache
    found = _spread(smaller, device, most)
    if found is None:
        return None
    spread, words = found
    return spread, " and ".join([cache] * bool(cache) + [f"training: {{{words}}}"])


def may_train_factors(spec: RunSpec) -> bool:
    """Whether a run that trains all weights could train factors."""
    if spec.training.sharding.stage != "none" or spec.training.trainable == "lora":
        return False
    return _accepted(_with(spec, _LORA[1]))


def _accepted(spec: RunSpec) -> bool:
    """Whether a suite could have these settings and the run's method can work with them."""
    kind = load_method(spec.method)
    try:
        training = TrainingConfig.model_validate(spec.training.model_dump())
        kind(kind.Options.model_validate(spec.method_options), training).check(spec.label)
    except (ConfigError, ValidationError):
        return False
    return True


def _with(spec: RunSpec, change: dict[str, Any]) -> RunSpec:
    return replace(spec, training=spec.training.model_copy(update=change))


def _line(name: str, cells: list[str]) -> str:
    return f"{name[:56]:<56}" + "".join(f"{cell:>9}" for cell in cells)


def _number(value: float) -> str:
    return "-" if value == 0 else f"{value:.2f}" if value < 1 else f"{value:.1f}"
