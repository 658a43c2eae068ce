"""The table of devices that a suite can be planned for, and this machine's processor."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from pydantic import Field

from bridge.machine.processor import has_bfloat16
from bridge.store.schema import Closed, ConfigError, read_yaml, validate

_TABLE = Path(__file__).with_name("devices.yaml")


CPU = "cpu"
"""Name of this machine's processor, where a device is asked for."""
_SIZE = 1024
_COPIED_BYTES = 2**28
_SLOWER = 7
"""Times that bfloat16 products take on a processor without instructions for them."""


class Device(Closed):
    """A GPU, or a processor with all its cores."""

    name: str
    memory_gib: float = Field(gt=0)
    """As the driver reports it."""
    bf16_tflops: float = Field(gt=0)
    """Dense bfloat16 matrix products, 10^12 operations a second, by the maker."""
    bandwidth_gbs: float = Field(gt=0)
    """Of the device's memory, 10^9 bytes a second, by the maker."""
    source: str
    float32_tflops: float | None = None
    """The same in float32; None: an eighth of the bfloat16 rate (TF32 is left off)."""

    def tflops(self, precision: str) -> float:
        """Rate of dense products in a precision, 10^12 operations a second."""
        if precision == "bfloat16":
            return self.bf16_tflops
        return self.float32_tflops or self.bf16_tflops / 8


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
    if name == CPU:
        return this_processor()
    known = load_devices()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}."
        raise ConfigError(f"unknown device '{name}'; {hint} The table is {_TABLE.name}.")
    return known[name]


@cache
def this_processor() -> Device:
    """This machine's processor as it is now: products and copies are timed for a moment."""
    import numpy as np
    import psutil

    matrix = np.ones((_SIZE, _SIZE), np.float32)
    product_s = _fastest_s(lambda: matrix @ matrix)
    block = np.ones(_COPIED_BYTES // 8)
    copy_s = _fastest_s(block.copy)
    float32_tflops = 2 * _SIZE**3 / product_s / 1e12
    slower = 1 if has_bfloat16() else _SLOWER
    return Device(
        name=CPU,
        memory_gib=psutil.virtual_memory().total / 2**30,
        bf16_tflops=float32_tflops / slower,
        float32_tflops=float32_tflops,
        bandwidth_gbs=2 * _COPIED_BYTES / copy_s / 1e9,
        source=f"timed now: float32 {1000 * float32_tflops:.0f} GFLOPS, bfloat16 about "
        f"{1000 * float32_tflops / slower:.0f}",
    )


def _fastest_s(work: Callable[[], object]) -> float:
    """Seconds of the fastest of a few calls; the first one warms up."""
    work()
    took = []
    for _ in range(4):
        begin = time.perf_counter()
        work()
        took.append(time.perf_counter() - begin)
    return min(took)
