"""Experiment trackers, each through its own library: what is sent to them and where it goes.

One run of the tracker for each specification of a run. Its name in the tracker holds the first
digits of the specification's hash, so a run that is resumed, or sent by another process later,
continues the same curve, and one with other settings is another.

==============  ==================================================================
``trackio``     ``TRACKIO_DIR``, else the cache of the home folder; ``trackio show``
``wandb``       the account of ``wandb login``; ``WANDB_MODE=offline`` keeps it here
``tensorboard`` ``results/<suite>/tracking/tensorboard``
``mlflow``      ``MLFLOW_TRACKING_URI``
==============  ==================================================================

Imported by ``bridge track`` alone, a process beside the training.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Values = Mapping[str, float]


@dataclass(frozen=True)
class Tracked:
    """A run of ours as trackers are told of it."""

    suite: str
    name: str
    """``model/dataset/method/seed0``."""
    spec_hash: str
    config: Mapping[str, Any]
    """What ``spec.json`` holds."""

    @property
    def title(self) -> str:
        """Name of the run in the tracker."""
        return f"{self.name} {self.spec_hash[:8]}"

    @property
    def project(self) -> str:
        """Name of the suite in the tracker."""
        return f"bridge-{self.suite}"


class Tracker(Protocol):
    """A library that draws curves. What a method raises is a failure to be tried again."""

    def send(self, run: Tracked, steps: Sequence[tuple[int, Values]]) -> None:
        """Send the values of some steps, which were not sent before."""

    def end(self, run: Tracked) -> None:
        """The run has ended."""


class Trackio:
    """Local files, or a Space where ``TRACKIO_SPACE_ID`` names one."""

    def send(self, run: Tracked, steps: Sequence[tuple[int, Values]]) -> None:
        import trackio

        # It knows one current run, so each call opens it anew.
        opened = trackio.init(
            run.project,
            name=run.title,
            group=run.name.rpartition("/")[0],
            config=dict(run.config),
            resume="allow",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )
        for step, values in steps:
            opened.log(dict(values), step=step)
        opened.finish()

    def end(self, run: Tracked) -> None:
        """Nothing is open."""


class Wandb:
    """Weights & Biases."""

    def __init__(self) -> None:
        self._open: dict[str, Any] = {}

    def send(self, run: Tracked, steps: Sequence[tuple[int, Values]]) -> None:
        import wandb

        if run.title not in self._open:
            self._open[run.title] = wandb.init(
                project=run.project,
                id=run.title.replace("/", "-").replace(" ", "-"),
                name=run.name,
                group=run.name.rpartition("/")[0],
                config=dict(run.config),
                resume="allow",
                reinit="create_new",
                settings=wandb.Settings(console="off", silent=True),
            )
        for step, values in steps:
            self._open[run.title].log(dict(values), step=step)

    def end(self, run: Tracked) -> None:
        if run.title in self._open:
            self._open.pop(run.title).finish()


class TensorBoard:
    """Event files; several of one run are read as one curve."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def send(self, run: Tracked, steps: Sequence[tuple[int, Values]]) -> None:
        from tensorboard.summary import Writer

        writer = Writer(str(self._folder / run.title))
        for step, values in steps:
            for name, value in values.items():
                writer.add_scalar(name, value, step)
        writer.close()

    def end(self, run: Tracked) -> None:
        """Nothing is open."""


class Mlflow:
    """An MLflow server, or what else ``MLFLOW_TRACKING_URI`` names."""

    TAG = "bridge.run"

    def send(self, run: Tracked, steps: Sequence[tuple[int, Values]]) -> None:
        from mlflow.entities import Metric

        client, known = self._client_and_id(run)
        now_ms = int(1000 * time.time())
        for step, values in steps:
            metrics = [Metric(name, value, now_ms, step) for name, value in values.items()]
            client.log_batch(known, metrics=metrics)

    def end(self, run: Tracked) -> None:
        client, known = self._client_and_id(run)
        client.set_terminated(known)

    def _client_and_id(self, run: Tracked) -> tuple[Any, str]:
        """Its id of the run, which is made where there is none."""
        from mlflow import MlflowClient

        client = MlflowClient()
        experiment = client.get_experiment_by_name(run.project)
        place = experiment.experiment_id if experiment else client.create_experiment(run.project)
        found = client.search_runs([place], f"tags.`{self.TAG}` = '{run.title}'")
        if found:
            return client, str(found[0].info.run_id)
        made = client.create_run(place, run_name=run.title, tags={self.TAG: run.title})
        client.log_dict(made.info.run_id, dict(run.config), "spec.json")
        return client, str(made.info.run_id)


def tracker_of(name: str, folder: Path) -> Tracker:
    """The tracker of a name in ``config.yaml``.

    Args:
        folder: for what a tracker keeps in the suite's results.
    """
    if name == "tensorboard":
        return TensorBoard(folder / name)
    kinds: dict[str, type[Tracker]] = {"trackio": Trackio, "wandb": Wandb, "mlflow": Mlflow}
    return kinds[name]()
