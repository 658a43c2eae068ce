"""Checkpoints that a killed run continues from, bit for bit.

A checkpoint is a folder with tensors (safetensors), ``state.json`` and, written last, a manifest
with the size and SHA-256 of each file. It is written under a temporary name, synced and renamed;
two are kept. One that does not match its manifest is skipped with a message, and the one before it
is used.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bridge.models.checkpoint import writing_tensors
from bridge.store.records import (
    RecordError,
    file_hash,
    read_json,
    sync_folder,
    write_json,
)

KEPT = 2
IDENTITY = {
    "train_hash": "configuration",
    "code": "version of the training code",
    "base_model": "base model",
}
"""What a checkpoint must have in common with the run that takes it up: key of its state, name."""
_MANIFEST, _STATE, _TENSORS = "manifest.json", "state.json", "tensors.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on."""

    step: int
    state: dict[str, Any]
    tensors: dict[str, Tensor]


def save_checkpoint(
    folder: Path, step: int, state: dict[str, Any], tensors: dict[str, Tensor]
) -> None:
    """Write a checkpoint and drop all but the newest two.

    Raises:
        RecordError: disk full or folder not writable; earlier checkpoints are untouched.
    """
    final = folder / f"step{step:08d}"
    temporary = folder / f".{final.name}.tmp"
    with writing_tensors(final):
        folder.mkdir(parents=True, exist_ok=True)
        for left_over in folder.glob(".step*.tmp"):
            shutil.rmtree(left_over)
        temporary.mkdir()
        save_file({k: v.contiguous() for k, v in tensors.items()}, temporary / _TENSORS)
        _sync_file(temporary / _TENSORS)
        write_json(temporary / _STATE, state)
        names = (_TENSORS, _STATE)
        write_json(
            temporary / _MANIFEST,
            {
                n: {"sha256": file_hash(temporary / n), "bytes": (temporary / n).stat().st_size}
                for n in names
            },
        )
        sync_folder(temporary)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        sync_folder(folder)
    for old in sorted(folder.glob("step*"))[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint that was found sound."""
    state = read_json(path / _STATE)
    return Checkpoint(state["step"], state, load_file(path / _TENSORS))


def find_checkpoint(folder: Path, *, identity: Mapping[str, str]) -> Path | None:
    """Return the folder of the newest sound checkpoint of this very run, or None.

    Args:
        identity: what the state must say, of the keys of :data:`IDENTITY`.

    Raises:
        RecordError: a sound checkpoint belongs to another configuration, code or base model.
    """
    paths = sorted(folder.glob("step*"))
    while paths:
        path = paths.pop()
        problem = _damage(path)
        if problem is not None:
            remedy = "using the one before it" if paths else "starting the run afresh"
            print(f"checkpoint {path}: {problem}; {remedy}.", file=sys.stderr)
            continue
        state = read_json(path / _STATE)
        for key, expected in identity.items():
            if state.get(key) != expected:
                raise RecordError(
                    f"{path} belongs to another {IDENTITY[key]} ({state.get(key)}, this run is "
                    f"{expected}); delete {folder} to start this run afresh."
                )
        return path
    return None


def _damage(path: Path) -> str | None:
    """What is wrong with a checkpoint folder, or None."""
    try:
        manifest = read_json(path / _MANIFEST)
        entries = {n: (manifest[n]["bytes"], manifest[n]["sha256"]) for n in (_TENSORS, _STATE)}
    except (RecordError, KeyError, TypeError):
        return "its manifest is missing or damaged"
    for name, (size, checksum) in entries.items():
        file = path / name
        if not file.is_file() or file.stat().st_size != size:
            return f"{name} is missing or cut short"
        if file_hash(file) != checksum:
            return f"{name} does not match its checksum"
    return None


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


OfWeight = Callable[[int, Tensor], Tensor]
"""Between what this process holds for a weight, told by its index, and the whole."""


def optimizer_tensors(
    name: str, optimizer: torch.optim.Optimizer, whole: OfWeight
) -> dict[str, Tensor]:
    """Flatten an optimiser's per-parameter state into named tensors."""
    return {
        f"optimizer|{name}|{index}|{key}": whole(index, value)
        for index, entry in optimizer.state_dict()["state"].items()
        for key, value in entry.items()
    }


def restore_optimizer(
    name: str, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], part: OfWeight
) -> None:
    """Put back what :func:`optimizer_tensors` took."""
    state: dict[int, dict[str, Tensor]] = {}
    for full, value in tensors.items():
        if full.startswith(f"optimizer|{name}|"):
            _, _, index, key = full.split("|")
            state.setdefault(int(index), {})[key] = part(int(index), value)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
