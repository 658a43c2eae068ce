"""Runs as what a calendar needs of them: cards, hours, and what they take of host and disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bridge.jobs.needs.devices import Device
from bridge.jobs.needs.prediction import predict
from bridge.jobs.needs.report import fitted, kinds_of_runs
from bridge.methods.registry import load_method
from bridge.plan.grid import Plan, RunSpec
from bridge.store.schema import ConfigError

Block = tuple[str, str]
"""A model and a data set."""


@dataclass(frozen=True)
class Cell:
    """A run with its evaluation."""

    block: Block
    row: str
    method: str
    seed: int
    cards: int
    hours: float
    """By the clock, on all its cards."""
    between_h: float
    """From one checkpoint to the next: what an interruption costs at most."""
    start_h: float
    """Of its hours, what each attempt takes before it works."""
    host_gib: float
    disk_gib: float
    """Its checkpoints and policy while it runs."""
    policy_gib: float
    """What stays on the disk."""

    @property
    def device_hours(self) -> float:
        """Hours of single cards."""
        return self.cards * self.hours


@dataclass(frozen=True)
class Spread:
    """Rows of a block that take several cards, and the settings they need for it."""

    block: Block
    rows: tuple[str, ...]
    cards: int
    settings: str


def cells_of(plan: Plan, device: Device, count: int) -> tuple[list[Cell], list[Spread]]:
    """The runs of a suite on cards of one kind, those too large for one spread over several.

    Raises:
        ConfigError: a run fits on no number of cards up to ``count``.
    """
    cells: list[Cell] = []
    needed: dict[tuple[Block, int, str], list[str]] = {}
    for name, specs in kinds_of_runs(plan).items():
        found = fitted(specs[0], device, count)
        if found is None:
            raise ConfigError(
                f"{name} does not fit {count} x {device.name}; see bridge doctor --suite "
                f"{plan.name} --device {device.name}."
            )
        spec, settings = found
        cards = spec.training.sharding.ranks
        if settings:
            key = (spec.model, spec.dataset), cards, settings
            needed.setdefault(key, []).append(spec.label)
        cells += _cells(spec, [s.seed for s in specs], device)
    spreads = [Spread(block, tuple(rows), n, how) for (block, n, how), rows in needed.items()]
    return cells, spreads


def _cells(spec: RunSpec, seeds: list[int], device: Device) -> Iterator[Cell]:
    needs = predict(spec, device)
    assert needs.hours is not None
    kind = load_method(spec.method)
    method = kind(kind.Options.model_validate(spec.method_options), spec.training, spec.seed)
    hours, evaluating = needs.hours["total"], needs.hours["evaluate"]
    share = min(1.0, spec.training.checkpoint_every / max(1, method.n_steps))
    for seed in seeds:
        yield Cell(
            block=(spec.model, spec.dataset),
            row=spec.label,
            method=spec.method,
            seed=seed,
            cards=spec.training.sharding.ranks,
            hours=hours,
            # An evaluation that is interrupted begins again.
            between_h=max(share * (hours - evaluating), evaluating),
            start_h=needs.hours["start"],
            host_gib=needs.host_gib,
            disk_gib=needs.disk_gib,
            policy_gib=needs.policy_gib,
        )
