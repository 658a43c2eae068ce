"""Make the tiny base models of a suite (``bridge prepare``)."""

from __future__ import annotations

import os
import random
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch

from bridge.models.tiny import build_model, build_tokenizer, pretrain, save_base
from bridge.store.records import content_hash, folder_hash, holding, read_json, write_json
from bridge.store.seeds import derive_seed
from bridge.store.settings import TinyModel
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
    lock = folder.with_name(f".{folder.name}.lock")
    with holding(lock, folder, wait_s=wait_s) as waited:
        if not (waited and _is_there(model, folder)):
            _make(name, model, folder, threads)


def _is_there(model: TinyModel, folder: Path) -> bool:
    """Whether another process has just made this model."""
    path = folder / "base.json"
    expected = content_hash(model.model_dump(mode="json"))
    return path.is_file() and read_json(path).get("config_hash") == expected


def _make(name: str, model: TinyModel, folder: Path, threads: int) -> None:
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
            )
            for family in families
        ]

    begin = last = time.monotonic()
    total = model.skill_steps + model.habit_steps

    def report(step: int, loss: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > 10 or step == total:
            last = now
            left = (now - begin) / step * (total - step)
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
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    save_base(network, tokenizer, temporary)
    temporary.rename(folder)
    write_json(
        folder / "base.json",
        {
            "hash": folder_hash(folder),
            "config_hash": content_hash(model.model_dump(mode="json")),
            "n_parameters": sum(p.numel() for p in network.parameters()),
        },
    )
