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
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bridge.engines.sharding.policy import ShardedPolicy, ShardedReference
from bridge.engines.sharding.rollouts import SharedEngine, SharedGrader
from bridge.engines.vllm import VllmEngine
from bridge.grading.pool import GraderPool
from bridge.grading.verdicts import GRADER_VERSION
from bridge.machine.interruption import Interrupted, requested
from bridge.machine.requeue import patience_s
from bridge.machine.telemetry import (
    Stopwatch,
    device_name,
    git_state,
    host_memory_gib,
    training_device,
    versions,
)
from bridge.methods.base import Method
from bridge.methods.registry import load_method
from bridge.models.checkpoint import (
    Policy,
    cast_weights,
    load_policy,
    save_policy,
    weights_hash,
)
from bridge.models.hub_model import prepare_hub_model
from bridge.plan.grid import RunSpec
from bridge.run.experience import Collector
from bridge.run.probes import Probes
from bridge.run.recorder import recording
from bridge.run.state import Run
from bridge.run.streams import check_lengths
from bridge.step.ranks import ALONE, Ranks
from bridge.step.reference import Reference
from bridge.step.rollouts import Engine
from bridge.step.sampler import NativeEngine
from bridge.step.trainer import DivergedError, Trainer
from bridge.step.weights import BASE, TrainablePolicy
from bridge.store.records import (
    RESULTS,
    RunFolder,
    Status,
    base_folder,
    content_hash,
    exclusive,
    read_json,
    sync_folder,
    sync_tree,
    write_json,
    writing,
)
from bridge.store.settings import HubModel, LocalModel, TrainingConfig
from bridge.tasks.base import Dataset, check_disjoint, check_problems
from bridge.tasks.registry import load_family


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
    # On a GPU some operations have no deterministic form; byte for byte is promised on the CPU.
    torch.use_deterministic_algorithms(True, warn_only=training_device().type == "cuda")
    folder = spec.folder(results)
    # One process writes; to the others its folder is to be read.
    lock = exclusive(folder, wait_s=patience_s()) if ranks.first else nullcontext(False)
    with lock as waited, GraderPool() as grader:
        # Whoever held the folder meanwhile may have finished the run.
        ended = ranks.from_first(lambda: _ended(spec, folder) if waited else None)
        if ended is not None:
            return ended
        started_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        base_path = ranks.from_first(partial(_base_path, spec, results))
        run = _set_up(spec, folder, grader, base_path, ranks)
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


def _set_up(
    spec: RunSpec, folder: RunFolder, grader: GraderPool, base_path: Path, ranks: Ranks
) -> Run:
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
    check_lengths(
        base,
        (*dataset.train, *dataset.validation),
        max_response_tokens=spec.training.max_response_tokens,
        context_tokens=base.model.config.max_position_embeddings,
    )
    policy = _policy(spec, base, method, ranks)
    reference = _reference(spec.training, policy, base_path) if spec.training.kl_coef > 0 else None
    trainer = Trainer(policy, method, spec.training, reference)
    stopwatch = Stopwatch()
    collector = Collector(
        policy.sampler,
        _engine(spec.training, policy, base_path),
        SharedGrader(grader, ranks),
        spec.training,
        seed=spec.seed,
        stopwatch=stopwatch,
    )
    probes = Probes(policy, trainer, collector, dataset, spec.training)
    return Run(spec, folder, method, dataset, policy, trainer, collector, probes, stopwatch)


def _policy(
    spec: RunSpec, base: Policy, method: Method, ranks: Ranks
) -> TrainablePolicy | ShardedPolicy:
    """The weights that are trained, held whole or in pieces."""
    training = spec.training
    compute = torch.bfloat16 if training.precision == "bfloat16" else None
    adapter = None if method.adapter is None else method.adapter.shape
    if training.sharding.stage != "none":
        return ShardedPolicy(
            base,
            training.sharding,
            ranks,
            adapter=adapter,
            shadow=method.uses_shadow,
            seed=spec.seed,
            compute=compute or torch.float32,
        )
    base.model.to(training_device())
    return TrainablePolicy(
        base,
        adapter=adapter,
        shadow=method.uses_shadow,
        seed=spec.seed,
        compute=compute,
        shadow_on_host=training.cpu_offload and (method.uses_shadow or method.forks_shadow),
    )


def _reference(
    training: TrainingConfig, policy: TrainablePolicy | ShardedPolicy, base_path: Path
) -> Reference | ShardedReference:
    """The policy of the KL term, which is never trained."""
    if isinstance(policy, ShardedPolicy):
        return ShardedReference(policy)
    reference = load_policy(base_path)
    if training.precision == "bfloat16":
        cast_weights(reference.model, torch.bfloat16)
    reference.model.to("cpu" if training.cpu_offload else training_device())
    return Reference(reference, policy)


def _engine(
    training: TrainingConfig, policy: TrainablePolicy | ShardedPolicy, base_path: Path
) -> Engine:
    sampler = policy.sampler
    if isinstance(policy, ShardedPolicy):
        native = NativeEngine(
            sampler.model, eos_token_id=sampler.eos_token_id, pad_token_id=sampler.pad_token_id
        )
        return SharedEngine(native, policy)
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
    n_steps, config, ranks = run.method.n_steps, run.spec.training, run.policy.ranks
    first_step = saved_step = run.counters.step
    with recording(run, sizes) as recorder:

        def save() -> int:
            with run.stopwatch.stage("checkpoint"):
                run.save(*recorder.flushed())
            return run.counters.step

        if sizes is None:
            first = {"step": 0, "kind": "probe", "rl_step": 0, "progress": 0.0}
            recorder.log(first | run.probes.measure(0))
        while run.counters.step < n_steps:
            # Ranks may have been told at different steps; all stop at this one or none does.
            signals = [name for name in ranks.join([requested()]) if name is not None]
            if signals:
                if run.counters.step > saved_step:
                    save()
                raise Interrupted(
                    f"stopped by {signals[0]} after step {run.counters.step} of {n_steps}; "
                    "the next attempt goes on from there",
                    progressed=run.counters.step > first_step,
                )
            line = run.step()
            step = run.counters.step
            if step % config.probe_every == 0 or step == n_steps:
                line |= run.probes.measure(step)
            recorder.log(line)
            if step % config.checkpoint_every == 0 and step < n_steps:
                saved_step = save()
            recorder.show(line)


def _save(run: Run, base_path: Path) -> str:
    """Write the trained policy and return its path relative to the run folder."""
    if run.method.n_steps == 0:
        return os.path.relpath(base_path, run.folder.path)
    temporary = run.folder.policy.with_name(".policy.tmp")
    if run.policy.ranks.first:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(run.folder.policy, ignore_errors=True)
    with run.policy.whole_model():
        if not run.policy.ranks.first:
            return run.folder.policy.name
        save_policy(run.policy.sampler, temporary)
    # done.json, written next, must never be on a disk that the weights did not reach.
    sync_tree(temporary)
    temporary.rename(run.folder.policy)
    sync_folder(run.folder.path)
    return run.folder.policy.name


def _summary(run: Run, base_path: Path, started_at: str, threads: int) -> dict[str, Any]:
    n = run.policy.sizes[BASE]
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
        "device_hours": total_s / 3600 * run.policy.ranks.size,
        "memory_gib": {
            **run.stopwatch.memory.peaks(),
            "host": host_memory_gib(),
        },
        "memory_by_stage_gib": run.stopwatch.memory.stages,
        "device": device_name(),
        "threads": threads,
        "ranks": run.policy.ranks.size,
        "versions": versions(*(["deepspeed"] if isinstance(run.policy, ShardedPolicy) else [])),
        "git": git_state(),
        "demonstrations": _demonstrations(run.dataset),
        "hashes": {
            "base_model": weights_hash(base_path),
            "data": content_hash(
                [[p.id, p.question, p.answer, p.demonstration] for p in run.dataset.train]
            ),
            "grader_version": GRADER_VERSION,
        },
        "n_parameters": n,
        "parameters_by_group": run.policy.sizes,
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
