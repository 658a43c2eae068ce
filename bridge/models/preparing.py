"""Make the tiny base models of a suite (``bridge prepare``), and put a base model in its place."""

from __future__ import annotations

import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch

from bridge.machine.telemetry import beat
from bridge.models.folder import is_made
from bridge.models.tiny import build_model, build_tokenizer, pretrain, save_base
from bridge.store.records import content_hash, folder_hash, holding, write_json
from bridge.store.seeds import derive_seed
from bridge.store.settings import MadeModel, TinyModel
from bridge.tasks.base import SyntheticFamily
from bridge.tasks.registry import load_family


def prepare_base(
    name: str, model: TinyModel, folder: Path, threads: int, *, wait_s: float = 0.0
) -> None:
    """Pre-train a tiny base model and write its checkpoint, then ``base.json`` with its hash.

    Args:
        wait_s: how long to wait for another process that makes the same model; what it has made
            meanwhile is taken.
    """
    heartbeat = folder.with_name(f".{folder.name}.heartbeat.json")
    try:
        made_once(
            model, folder, lambda into: _make(name, model, into, threads, heartbeat), wait_s=wait_s
        )
    finally:
        heartbeat.unlink(missing_ok=True)


def made_once(
    model: MadeModel, folder: Path, make: Callable[[Path], dict[str, Any]], *, wait_s: float = 0.0
) -> None:
    """Have a base model made beside its folder, then put it there with its record.

    Args:
        make: writes the checkpoint into a folder that is not there yet, and returns what
            ``base.json`` says of it besides its hashes.
        wait_s: see :func:`prepare_base`.
    """
    lock = folder.with_name(f".{folder.name}.lock")
    with holding(lock, folder, wait_s=wait_s) as waited:
        config_hash = content_hash(model.model_dump(mode="json"))
        if waited and is_made(model, folder):
            return
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        facts = make(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
        record = {"hash": folder_hash(folder), "config_hash": config_hash}
        write_json(folder / "base.json", record | facts)


def _make(
    name: str, model: TinyModel, folder: Path, threads: int, heartbeat: Path
) -> dict[str, Any]:
    torch.set_num_threads(threads)
    families = [cast(SyntheticFamily, load_family(f)) for f in model.families]
    tokenizer = build_tokenizer(
        [word for family in families for word in family.vocabulary()],
        context_tokens=model.context_tokens,
    )
    network = build_model(
        model.architecture,
        tokenizer=tokenizer,
        hidden=model.hidden,
        layers=model.layers,
        heads=model.heads,
        context_tokens=model.context_tokens,
        seed=derive_seed("base-weights", model.seed),
    )

    def streams(*, habit: bool) -> list[Iterator[tuple[str, str]]]:
        return [
            family.pretraining(
                random.Random(derive_seed("pretraining", family.name, habit, model.seed)),
                habit=habit,
                world=model.seed,
            )
            for family in families
        ]

    begin = last = time.monotonic()
    total = model.skill_steps + model.habit_steps

    def report(step: int, loss: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > 5 or step == total:
            last = now
            left = (now - begin) / step * (total - step)
            beat(heartbeat, step, total, left)
            print(
                f"prepare {name}: step {step}/{total}, loss {loss:.3f}, {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    pretrain(
        network,
        tokenizer,
        streams(habit=False),
        streams(habit=True),
        steps=model.skill_steps,
        habit_steps=model.habit_steps,
        batch_size=model.batch_size,
        learning_rate=model.learning_rate,
        seed=model.seed,
        on_step=report,
    )
    save_base(network, tokenizer, folder)
    return {"n_parameters": sum(p.numel() for p in network.parameters())}
