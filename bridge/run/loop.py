"""One run, from its specification to ``done.json``.

Kill it at any step and start it again: it continues from its last checkpoint and writes the same
``dynamics.jsonl`` and the same weights, byte for byte on the CPU (seconds go to ``timings.jsonl``).
Asked to stop, it saves at the next step boundary first.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bridge.grading.pool import GraderPool
from bridge.grading.signal import missing_signal
from bridge.grading.verdicts import GRADER_VERSION, GraderLimits
from bridge.machine.determinism import make_deterministic
from bridge.machine.interruption import Interrupted, requested, stop_waiting
from bridge.machine.provenance import device_name, git_state, versions
from bridge.machine.ranks import ALONE, Ranks
from bridge.machine.requeue import patience_s
from bridge.machine.telemetry import host_memory_gib
from bridge.models.card import licence_of, write_card
from bridge.models.checkpoint import save_policy, weights_hash
from bridge.models.decoding import decoder_of
from bridge.plan.budget import flops
from bridge.plan.grid import RunSpec
from bridge.run.building import base_of, build_run
from bridge.run.recorder import recording
from bridge.run.state import Run
from bridge.step.trainer import DivergedError
from bridge.store.records import (
    RESULTS,
    RunFolder,
    Status,
    content_hash,
    exclusive,
    read_json,
    sync_folder,
    sync_tree,
    write_json,
    writing,
)


def train_run(spec: RunSpec, *, results: Path, threads: int, ranks: Ranks = ALONE) -> Status:
    """Train one run, or continue it, and write its records.

    Args:
        threads: of this process.
        ranks: the processes that make this call together.

    Raises:
        RecordError, CheckpointError, ProblemError, GraderError: the run cannot be made; one
        sentence. What was finished before stays.
        Interrupted: asked to stop; everything up to the last step is in a checkpoint.
    """
    torch.set_num_threads(threads)
    make_deterministic(full=spec.training.full_determinism, engines={spec.training.engine})
    folder = spec.folder(results)
    # One process writes; to the others its folder is to be read.
    held = exclusive(folder, wait_s=patience_s(), on_wait=stop_waiting)
    lock = held if ranks.first else nullcontext(False)
    with lock as waited, GraderPool(GraderLimits(workers=threads), spec.reward) as grader:
        # Whoever held the folder meanwhile may have finished the run.
        ended = ranks.from_first(lambda: _ended(spec, folder) if waited else None)
        if ended is not None:
            return ended
        started_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        base_path = ranks.from_first(partial(base_of, spec, results))
        run = build_run(spec, folder, grader, base_path, ranks)
        if ranks.first:
            _say_coverage(run)
        demo_reward = run.grade_demonstrations()
        sizes = run.restore()
        # Not before: what cannot be set up must not cost what was finished.
        if ranks.first:
            with writing(folder.done):
                folder.done.unlink(missing_ok=True)
            write_json(folder.spec, spec.as_dict())
        if ranks.first and demo_reward is not None:
            print(f"J(D), reward of the demonstrations: {demo_reward:.4f}", file=sys.stderr)
        status: Status = "done"
        reason = None
        try:
            _loop(run, sizes)
            policy_path = _save(run, base_path)
        except DivergedError as error:
            status, reason, policy_path = "diverged", f"step {run.counters.step}: {error}", None
            if ranks.first:
                shutil.rmtree(folder.policy, ignore_errors=True)  # of an earlier attempt
        if not ranks.first:
            return status
        summary = _summary(run, base_path, started_at, threads)
        if policy_path == folder.policy.name:
            licence = licence_of(spec.model_config.source, base_path)
            write_card(folder, spec.as_dict(), summary, licence)
        write_json(
            folder.done,
            {
                "status": status,
                "reason": reason,
                "policy": policy_path,
                "demo_reward": demo_reward,
                **summary,
            },
        )
        # Last: until done.json is on the disk, the checkpoints are all there is of the run.
        shutil.rmtree(folder.resume, ignore_errors=True)
        return status


def _say_coverage(run: Run) -> None:
    if run.dataset.coverage is not None:
        print(f"{run.spec.dataset}: {run.dataset.coverage}", file=sys.stderr)


def _ended(spec: RunSpec, folder: RunFolder) -> Status | None:
    """How this very run has ended, or None if it has not."""
    if not folder.done.is_file():
        return None
    record = read_json(folder.done)
    status: Status = record.get("status")
    return status if status in RESULTS and record.get("train_hash") == spec.train_hash else None


def _loop(run: Run, sizes: tuple[int, int] | None) -> None:
    """Make all remaining steps, logging each and saving now and then.

    Args:
        sizes: bytes of the two logs that belong to the restored checkpoint; None without one.
    """
    config, ranks = run.spec.training, run.policy.ranks
    first_step = saved_step = run.counters.step
    with recording(run, sizes) as recorder:

        def save() -> int:
            with run.stopwatch.stage("checkpoint"):
                run.save(*recorder.flushed())
            return run.counters.step

        if sizes is None:
            first = {"step": 0, "kind": "probe", "rl_step": 0, "progress": 0.0}
            recorder.log(first | run.probes.measure(0))
            _say_signal(run)
        while not run.finished:
            # Ranks may have been told at different steps; all stop at this one or none does.
            signals = [name for name in ranks.join([requested()]) if name is not None]
            if signals:
                if run.counters.step > saved_step:
                    save()
                raise Interrupted(
                    f"stopped by {signals[0]} after step {run.counters.step} of "
                    f"{run.method.n_steps}; "
                    "the next attempt continues from there",
                    progressed=run.counters.step > first_step,
                )
            line = run.step()
            step = run.counters.step
            if step % config.probe_every == 0 or run.finished:
                line |= run.probes.measure(step)
                _keep_best(run, line)
                _say_signal(run)
            recorder.log(line)
            if step % config.checkpoint_every == 0 and not run.finished:
                saved_step = save()
            recorder.show(line)


def _say_signal(run: Run) -> None:
    """Before the first RL step, where a measurement has just shown that it would learn nothing."""
    following, limit = run.counters.step + 1, run.spec.training.max_response_tokens
    missing = missing_signal(run.probes.verdicts, run.spec.reward, limit)
    begun = run.counters.rl_batches > 0 or run.finished
    if missing and not begun and run.method.phase(following).kind == "rl":
        print(f"{run.spec.label}, step {following}: {missing}", file=sys.stderr, flush=True)


def _keep_best(run: Run, line: dict[str, Any]) -> None:
    """Write the policy beside the checkpoints where it is the best so far on validation."""
    counters, accuracy = run.counters, line["heldout_accuracy"]
    if run.spec.training.keep == "best" and accuracy > counters.best_accuracy:
        counters.best_accuracy, counters.best_step = accuracy, counters.step
        _write(run, _best(run))


def _best(run: Run) -> Path:
    return run.folder.resume / f"best{run.counters.best_step:08d}"


def _save(run: Run, base_path: Path) -> str:
    """Put the trained policy in its place and return its path relative to the run folder."""
    if run.method.n_steps == 0:
        return os.path.relpath(base_path, run.folder.path)
    final, source = run.folder.policy, run.folder.policy.with_name(".policy.tmp")
    if run.spec.training.keep == "best":
        source = _best(run)
    else:
        _write(run, source)
    if run.policy.ranks.first:
        shutil.rmtree(final, ignore_errors=True)
        source.rename(final)
        sync_folder(run.folder.path)
    return final.name


def _write(run: Run, folder: Path) -> None:
    """Write the policy; done.json must never be on a disk that the weights did not reach."""
    with run.policy.whole_model():
        if run.policy.ranks.first:
            shutil.rmtree(folder, ignore_errors=True)
            save_policy(run.policy.sampler, folder)
            sync_tree(folder)


def _summary(run: Run, base_path: Path, started_at: str, threads: int) -> dict[str, Any]:
    n = run.n_weights
    tokens = run.spent_tokens()
    total_s = run.stopwatch.elapsed_s
    extra = ["deepspeed"] if run.spec.training.sharding.stage != "none" else []
    return {
        "train_hash": run.spec.train_hash,
        "spec_hash": run.spec.spec_hash,
        "n_steps": run.counters.step,
        "kept_step": run.counters.best_step or run.counters.step,
        "seconds": {**run.stopwatch.total_s, "total": total_s},
        "tokens": {k: tokens[k] for k in ("generated", "trained", "demonstration")},
        "flops": flops(n, tokens),
        "device_hours": total_s / 3600 * run.policy.ranks.size,
        "memory_gib": run.stopwatch.memory.peaks() | {"host": host_memory_gib()},
        "memory_by_stage_gib": run.stopwatch.memory.stages,
        "device": device_name(),
        "threads": threads,
        "ranks": run.policy.ranks.size,
        "decoder": _decoder(run),
        "precision": str(run.policy.sampler.model.dtype).removeprefix("torch."),
        "versions": versions(*extra),
        "git": git_state(),
        "demonstrations": run.dataset.demonstrated,
        "hashes": {
            "base_model": weights_hash(base_path),
            "prompt": content_hash(run.policy.sampler.prompt("What is 1 + 1?")),  # of the template
            "data": content_hash([list(p.content) for p in run.dataset.train]),
            "grader_version": GRADER_VERSION,
        },
        "n_parameters": n,
        "parameters_by_group": run.policy.sizes,
        "started_at": started_at,
    }


def _decoder(run: Run) -> str:
    """What makes the forward passes of rollouts."""
    native = run.spec.training.engine == "native"
    return decoder_of(run.policy.sampler.model).name if native else run.spec.training.engine
