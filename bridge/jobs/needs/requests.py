"""What a job of a run asks of a cluster: host memory and a time limit."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from bridge.jobs.needs.devices import device
from bridge.jobs.needs.prediction import predict
from bridge.plan.grid import RunSpec
from bridge.store.schema import ConfigError
from bridge.store.settings import TinyModel

PLANNED_FOR = "a100-40gb"
"""Where no device is named: a slow card among those that large runs get. A limit that is too long
costs a later start in the queue, and nothing else."""
MARGIN = 1.5
"""Factor on predicted hours and memory: a limit that is too short costs another turn."""
LOADING_MINUTES = 30
"""For the environment, the model and the engine, whatever comes after."""
LONGEST_MINUTES = 24 * 60
"""Partitions have limits, and short jobs start sooner. A run that needs longer saves before this
limit and goes on in another turn."""


@dataclass(frozen=True)
class ClusterRequest:
    """What training and evaluation of one run ask for."""

    memory_mb: int
    training_minutes: int
    evaluation_minutes: int


TINY = ClusterRequest(2000, 20, 10)
"""The workflow's own models take a minute or two of one core."""
UNKNOWN = ClusterRequest(64_000, 24 * 60, 8 * 60)
"""For a model whose shape no table knows, so that nothing can be predicted."""


def request_of(spec: RunSpec, device_name: str | None = None) -> ClusterRequest:
    """The request of a run, from its prediction on a device with a margin."""
    if isinstance(spec.model_config, TinyModel):
        return TINY
    try:
        prediction = predict(spec, device(device_name or PLANNED_FOR))
    except ConfigError:
        return UNKNOWN
    assert prediction.hours is not None
    evaluation = prediction.hours["evaluate"]
    return ClusterRequest(
        memory_mb=ceil(MARGIN * prediction.host_gib * 1024),
        training_minutes=_minutes(prediction.hours["total"] - evaluation),
        evaluation_minutes=_minutes(evaluation),
    )


def _minutes(hours: float) -> int:
    return min(LONGEST_MINUTES, LOADING_MINUTES + ceil(MARGIN * hours * 60))
