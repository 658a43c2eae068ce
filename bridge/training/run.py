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
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bridge.config import HubModel, LocalModel, TrainingConfig
from bridge.grading.pool import GraderPool
from bridge.grading.verdicts import GRADER_VERSION
from bridge.interruption import Interrupted, requested
from bridge.planning import RunSpec, load_family, load_method
from bridge.policies.checkpoint import Policy, cast_weights, load_policy, save_policy
from bridge.policies.hub_model import prepare_hub_model
from bridge.policies.trainable import ADAPTER, BASE, SHADOW, TrainablePolicy
from bridge.problems.base import Dataset, check_disjoint, check_problems
from bridge.records import (
    RecordError,
    RunFolder,
    Status,
    base_folder,
    content_hash,
    exclusive,
    folder_hash,
    jsonl,
    read_json,
    sync_folder,
    sync_tree,
    write_json,
    writing,
)
from bridge.rollouts.base import Engine
from bridge.rollouts.native import NativeEngine
from bridge.rollouts.vllm import VllmEngine
from bridge.training.experience import Collector
from bridge.training.probes import Probes
from bridge.training.session import Run
from bridge.training.streams import check_lengths
from bridge.training.telemetry import (
    Progress,
    Stopwatch,
    device_name,
    git_state,
    host_memory_gib,
    training_device,
    versions,
)
from bridge.training.trainer import DivergedError, Trainer


def train_run(spec: RunSpec, *, results: Path, threads: int) -> Status:
    """Train one run, or continue it, and write its records.

    Raises:
        RecordError, CheckpointError, ProblemError, GraderError: the run cannot be made; one
        sentence. What was finished before stays.
        Interrupted: asked to stop; everything up to the last step is in a checkpoint.
    """
    torch.set_num_threads(threads)
    # On a GPU some operations have no deterministic form; byte for byte is promised on the CPU.
    torch.use_deterministic_algorithms(True, warn_only=training_device().type == "cuda")
    folder = spec.folder(results)
    with exclusive(folder), GraderPool() as grader:
        started_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        base_path = _base_path(spec, results)
        run = _set_up(spec, folder, grader, base_path)
        _say_coverage(run)
        demo_reward = run.grade_demonstrations()
        sizes = run.restore()
        # Not before: what cannot be set up must not cost what was finished.
        with writing(folder.done):
            folder.done.unlink(missing_ok=True)
        write_json(folder.spec, spec.as_dict())
        if demo_reward is not None:
            print(f"J(D), reward of the demonstrations: {demo_reward:.4f}", file=sys.stderr)
        status: Status = "done"
        reason = None
        try:
            _loop(run, sizes)
            policy_path = _save(run, base_path)
        except DivergedError as error:
            status, reason, policy_path = "diverged", f"step {run.counters.step}: {error}", None
            shutil.rmtree(folder.policy, ignore_errors=True)  # of an earlier attempt
        summary = _summary(run, base_path, started_at, threads)
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


def _set_up(spec: RunSpec, folder: RunFolder, grader: GraderPool, base_path: Path) -> Run:
    family = load_family(spec.family)
    options = family.Options.model_validate(spec.dataset_options)
    dataset = family.dataset(options)
    check_problems(f"{spec.dataset} train", dataset.train)
    check_problems(f"{spec.dataset} validation", dataset.validation)
    check_disjoint(
        f"{spec.dataset} train", dataset.train, f"{spec.dataset} validation", dataset.validation
    )
    for name in family.benchmark_names():
        questions = family.benchmark(name, options)
        check_problems(name, questions)
        if name not in spec.train_on_benchmarks:
            check_disjoint(f"{spec.dataset} train", dataset.train, name, questions)

    method_class = load_method(spec.method)
    method = method_class(
        method_class.Options.model_validate(spec.method_options), spec.training, spec.seed
    )
    base = load_policy(base_path)
    base.model.to(training_device())
    check_lengths(
        base,
        (*dataset.train, *dataset.validation),
        max_response_tokens=spec.training.max_response_tokens,
        context_tokens=base.model.config.max_position_embeddings,
    )
    adapter = method.adapter
    policy = TrainablePolicy(
        base,
        adapter=None if adapter is None else adapter.shape,
        shadow=method.uses_shadow,
        seed=spec.seed,
        compute=torch.bfloat16 if spec.training.precision == "bfloat16" else None,
        shadow_on_host=spec.training.cpu_offload and (method.uses_shadow or method.forks_shadow),
    )
    reference = _reference(spec.training, base_path) if spec.training.kl_coef > 0 else None
    trainer = Trainer(policy, method, spec.training, reference)
    stopwatch = Stopwatch()
    collector = Collector(
        policy.sampler,
        _engine(spec.training, policy, base_path),
        grader,
        spec.training,
        seed=spec.seed,
        stopwatch=stopwatch,
    )
    probes = Probes(policy, trainer, collector, dataset, spec.training)
    return Run(spec, folder, method, dataset, policy, trainer, collector, probes, stopwatch)


def _reference(training: TrainingConfig, base_path: Path) -> Policy:
    """The policy of the KL term, which is never trained."""
    reference = load_policy(base_path)
    if training.precision == "bfloat16":
        cast_weights(reference.model, torch.bfloat16)
    reference.model.to("cpu" if training.cpu_offload else training_device())
    return reference


def _engine(training: TrainingConfig, policy: TrainablePolicy, base_path: Path) -> Engine:
    sampler = policy.sampler
    if training.engine == "vllm":
        return VllmEngine(
            base_path,
            end_token_ids=[sampler.eos_token_id],
            dtype=sampler.model.dtype,
            kv_cache_gib=training.kv_cache_gib,
            weights=lambda: ((n, p.detach()) for n, p in policy.model.named_parameters()),
        )
    return NativeEngine(
        sampler.model,
        eos_token_id=sampler.eos_token_id,
        pad_token_id=sampler.pad_token_id,
        refresh=policy.refresh,
    )


def _loop(run: Run, sizes: tuple[int, int] | None) -> None:
    """Make all remaining steps, logging each and saving now and then.

    Args:
        sizes: bytes of the two logs that belong to the checkpoint taken up; None without one.
    """
    folder, n_steps, config = run.folder, run.method.n_steps, run.spec.training
    first_step = saved_step = run.counters.step
    with (
        writing(folder.dynamics),
        folder.dynamics.open("ab") as dynamics,
        folder.timings.open("ab") as timings,
    ):
        for stream, size in zip((dynamics, timings), sizes or (0, 0), strict=True):
            if os.fstat(stream.fileno()).st_size < size:
                raise RecordError(
                    f"{stream.name} is shorter than its checkpoint says; delete {folder.resume} "
                    "to start this run afresh."
                )
        # What was written after the checkpoint is made again.
        dynamics.truncate(0 if sizes is None else sizes[0])
        timings.truncate(0 if sizes is None else sizes[1])

        def log(line: dict[str, Any]) -> None:
            dynamics.write(jsonl([line]).encode())
            timing = {
                "step": line["step"],
                "seconds": run.stopwatch.end_step(),
                "elapsed_s": run.stopwatch.elapsed_s,
            }
            timings.write(jsonl([timing]).encode())

        def save() -> int:
            with run.stopwatch.stage("checkpoint"):
                for stream in (dynamics, timings):
                    stream.flush()
                    os.fsync(stream.fileno())
                run.save(dynamics.tell(), timings.tell())
            return run.counters.step

        if sizes is None:
            first = {"step": 0, "kind": "probe", "rl_step": 0, "progress": 0.0}
            log(first | run.probes.measure(0))
        name = f"{run.spec.model}/{run.spec.dataset}/{run.spec.label}/seed{run.spec.seed}"
        progress = Progress(folder, name=name, step=run.counters.step, n_steps=n_steps)
        try:
            while run.counters.step < n_steps:
                signal_name = requested()
                if signal_name is not None:
                    if run.counters.step > saved_step:
                        save()
                    raise Interrupted(
                        f"stopped by {signal_name} after step {run.counters.step} of {n_steps}; "
                        "the next attempt goes on from there",
                        progressed=run.counters.step > first_step,
                    )
                line = run.step()
                step = run.counters.step
                if step % config.probe_every == 0 or step == n_steps:
                    line |= run.probes.measure(step)
                log(line)
                if step % config.checkpoint_every == 0 and step < n_steps:
                    saved_step = save()
                progress.update(step, _headline(line))
        finally:
            progress.close()


def _headline(line: dict[str, Any]) -> str:
    shown = ("reward_mean", "rl_loss", "demonstration_loss", "heldout_accuracy")
    return ", ".join(f"{k} {line[k]:.3f}" for k in shown if line.get(k) is not None)


def _save(run: Run, base_path: Path) -> str:
    """Write the trained policy and return its path relative to the run folder."""
    if run.method.n_steps == 0:
        return os.path.relpath(base_path, run.folder.path)
    temporary = run.folder.policy.with_name(".policy.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(run.folder.policy, ignore_errors=True)
    run.policy.refresh()
    save_policy(run.policy.sampler, temporary)
    # done.json, written next, must never be on a disk that the weights did not reach.
    sync_tree(temporary)
    temporary.rename(run.folder.policy)
    sync_folder(run.folder.path)
    return run.folder.policy.name


def _summary(run: Run, base_path: Path, started_at: str, threads: int) -> dict[str, Any]:
    n = run.policy.sampler.n_parameters
    tokens = run.spent_tokens()
    # 2 N per token of a forward pass, 6 N per token of a forward and backward pass.
    generate = 2 * n * (tokens["generated"] + tokens["prefilled"])
    train = 6 * n * tokens["trained"] + 2 * n * tokens["scored"]
    total_s = run.stopwatch.elapsed_s
    return {
        "train_hash": run.spec.train_hash,
        "spec_hash": run.spec.spec_hash,
        "n_steps": run.counters.step,
        "seconds": {**run.stopwatch.total_s, "total": total_s},
        "tokens": {"generated": tokens["generated"], "trained": tokens["trained"]},
        "flops": {"generate": generate, "train": train, "total": generate + train},
        "device_hours": total_s / 3600,
        "memory_gib": {
            "allocated": None,
            "reserved": None,
            "device": None,
            "host": host_memory_gib(),
        },
        "device": device_name(),
        "threads": threads,
        "versions": versions(),
        "git": git_state(),
        "demonstrations": _demonstrations(run.dataset),
        "hashes": {
            "base_model": _base_hash(base_path),
            "data": content_hash(
                [[p.id, p.question, p.answer, p.demonstration] for p in run.dataset.train]
            ),
            "grader_version": GRADER_VERSION,
        },
        "n_parameters": n,
        "parameters_by_group": {
            g: sum(p.numel() for p in run.policy.parameters[g])
            for g in (BASE, ADAPTER, SHADOW)
            if g in run.policy.parameters
        },
        "started_at": started_at,
    }


def _demonstrations(dataset: Dataset) -> dict[str, Any]:
    """How many training prompts have a demonstration and, where they were matched, why not all."""
    if dataset.coverage is not None:
        return asdict(dataset.coverage)
    return {"prompts": len(dataset.train), "demonstrated": len(dataset.demonstrations)}


def _base_path(spec: RunSpec, results: Path) -> Path:
    model = spec.model_config
    if isinstance(model, LocalModel):
        return Path(model.path)
    folder = base_folder(results, spec.suite, spec.model)
    return prepare_hub_model(model, folder) if isinstance(model, HubModel) else folder


def _base_hash(base_path: Path) -> str:
    """The hash that a prepared base model was recorded with: of its files without that record,
    which holds seconds and would make equal models differ."""
    record = base_path / "base.json"
    return str(read_json(record)["hash"]) if record.is_file() else folder_hash(base_path)
