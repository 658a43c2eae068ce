"""What a run will need, told from its configuration alone: memory by part, and hours.

Imports no torch and asks no hub, so a plan can be refused on a bare machine before it is queued.
``docs/memory.md`` has the formulas and how near they come to what was measured.
"""

from bridge.jobs.needs.devices import Device, load_devices
from bridge.jobs.needs.prediction import Prediction, predict

__all__ = ["Device", "Prediction", "load_devices", "predict"]
