"""Checkpoints that a killed run continues from, bit for bit.

A checkpoint is a folder with tensors (safetensors), ``state.json`` and, written last, a manifest
with the size and SHA-256 of each file. It is written under a temporary name, synced and renamed;
two are kept, and while one is written the older of them makes room for it. One that does not match
its manifest is skipped with a message, and the one before it is used.

Tensors come one by one and go to files of :data:`FILE_BYTES`, so the host never holds a large
run's state as a whole; a file is synced and hashed while the next one is filled.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
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
FILE_BYTES = 4 * 2**30
"""Of tensors in one file, if it holds more than one."""
_MANIFEST, _STATE, _TENSORS = "manifest.json", "state.json", "tensors.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on."""

    step: int
    state: dict[str, Any]
    tensors: dict[str, Tensor]


def save_checkpoint(
    folder: Path, step: int, state: dict[str, Any], tensors: Iterable[tuple[str, Tensor]]
) -> None:
    """Write a checkpoint beside the newest one; older ones are dropped before.

    Raises:
        RecordError: disk full or folder not writable; the newest checkpoint is untouched.
    """
    final = folder / f"step{step:08d}"
    temporary = folder / f".{final.name}.tmp"
    with writing_tensors(final):
        folder.mkdir(parents=True, exist_ok=True)
        for left_over in folder.glob(".step*.tmp"):
            shutil.rmtree(left_over)
        for old in sorted(folder.glob("step*"))[: 1 - KEPT]:
            shutil.rmtree(old, ignore_errors=True)
        temporary.mkdir()
        write_json(temporary / _STATE, state)
        write_json(temporary / _MANIFEST, _write_files(temporary, tensors))
        sync_folder(temporary)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        sync_folder(folder)


def _write_files(
    folder: Path, tensors: Iterable[tuple[str, Tensor]]
) -> dict[str, dict[str, str | int]]:
    """Write the files of tensors; return the manifest of the folder."""
    with ThreadPoolExecutor(2) as beside:
        hashes = {_STATE: beside.submit(file_hash, folder / _STATE)}
        synced = []
        for number, group in enumerate(_in_files(tensors)):
            path = folder / (_TENSORS if number == 0 else f"tensors-{number}.safetensors")
            save_file(group, path)
            synced.append(beside.submit(_sync_file, path))
            hashes[path.name] = beside.submit(file_hash, path)
        for future in synced:
            future.result()
        return {
            name: {"sha256": told.result(), "bytes": (folder / name).stat().st_size}
            for name, told in hashes.items()
        }


def _in_files(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """The tensors in groups of a file each; one group at least."""
    group: dict[str, Tensor] = {}
    held = 0
    for name, tensor in tensors:
        if group and held + tensor.nbytes > FILE_BYTES:
            yield group
            group, held = {}, 0
        group[name] = tensor.contiguous()
        held += tensor.nbytes
    yield group


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint that was found sound."""
    state = read_json(path / _STATE)
    tensors: dict[str, Tensor] = {}
    for name in read_json(path / _MANIFEST):
        if name != _STATE:
            tensors |= load_file(path / name)
    return Checkpoint(state["step"], state, tensors)


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
        names = {_TENSORS, _STATE, *manifest}
        entries = {n: (manifest[n]["bytes"], manifest[n]["sha256"]) for n in sorted(names)}
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


_SHARED = ("qmap1", "qmap2")
"""Of bitsandbytes: the values that 8 bits stand for."""
OfWeight = Callable[[int, Tensor], Tensor]
"""Between what this process holds for a weight, told by its index, and the whole."""


def optimizer_tensors(
    name: str, optimizer: torch.optim.Optimizer, whole: OfWeight
) -> Iterator[tuple[str, Tensor]]:
    """An optimiser's per-parameter state as named tensors; numbers become int64."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, parameter in enumerate(parameters):
        for key, value in optimizer.state.get(parameter, {}).items():
            # One table for all weights, where a file wants a tensor for each.
            own = value.clone() if key in _SHARED else torch.as_tensor(value)
            yield f"optimizer|{name}|{index}|{key}", whole(index, own)


def restore_optimizer(
    name: str, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], part: OfWeight
) -> None:
    """Put back what :func:`optimizer_tensors` took."""
    state: dict[int, dict[str, Tensor | int]] = {}
    for full, value in tensors.items():
        if full.startswith(f"optimizer|{name}|"):
            _, _, index, key = full.split("|")
            number = value.dtype == torch.int64  # what is a tensor of its own is none of that dtype
            held = int(value) if number else part(int(index), value)
            state.setdefault(int(index), {})[key] = held
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
