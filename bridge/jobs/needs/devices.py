"""The table of devices that a suite can be planned for."""

from __future__ import annotations

import difflib
from functools import cache
from pathlib import Path

from pydantic import Field

from bridge.store.schema import Closed, ConfigError, read_yaml, validate

_TABLE = Path(__file__).with_name("devices.yaml")


class Device(Closed):
    """A GPU."""

    name: str
    memory_gib: float = Field(gt=0)
    """As the driver reports it."""
    bf16_tflops: float = Field(gt=0)
    """Dense bfloat16 matrix products, 10^12 operations a second, by the maker."""
    bandwidth_gbs: float = Field(gt=0)
    """Of the device's memory, 10^9 bytes a second, by the maker."""
    source: str


@cache
def load_devices() -> dict[str, Device]:
    """The devices by name."""
    return {
        name: validate(Device, {"name": name, **values}, _TABLE)
        for name, values in read_yaml(_TABLE).items()
    }


def device(name: str) -> Device:
    """Return one device.

    Raises:
        ConfigError: it is not in the table.
    """
    known = load_devices()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}."
        raise ConfigError(f"unknown device '{name}'; {hint} The table is {_TABLE.name}.")
    return known[name]
