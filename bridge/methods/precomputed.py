"""What is computed once from models as they are before the run, and read by all runs that need it.

A file in ``results/<suite>/columns/`` is named after what it was computed from, and says so inside.
The first run that needs it makes it while the others wait. A file that belongs to another model, to
other data or to another rule is refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bridge.machine.interruption import stop_waiting
from bridge.machine.ranks import Ranks
from bridge.machine.requeue import patience_s
from bridge.methods.columns import distribution_columns
from bridge.models.checkpoint import (
    CheckpointError,
    Policy,
    load_policy,
    weights_hash,
    writing_tensors,
)
from bridge.step.rows import Row, demonstration_row
from bridge.step.trainer import Trainer
from bridge.store.records import RecordError, content_hash, holding
from bridge.tasks.base import Problem


def precomputed(
    folder: Path,
    identity: Mapping[str, str],
    ranks: Ranks,
    compute: Callable[[], Mapping[str, Tensor]],
) -> dict[str, Tensor]:
    """Tensors by name: what ``compute`` returned when it was called once.

    Args:
        folder: of the files.
        identity: what the file must have been computed from, by name.

    Raises:
        RecordError: it was computed from something else, or is damaged.
    """
    path = folder / f"{content_hash(dict(identity))}.safetensors"
    held = holding(path.with_suffix(".lock"), path, wait_s=patience_s(), on_wait=stop_waiting)
    with held if ranks.first else nullcontext():
        if ranks.from_first(lambda: not path.is_file()):
            found = compute()  # by all ranks together
            if ranks.first:
                _write(path, found, identity)
            ranks.from_first(lambda: None)  # the others wait for the file
    try:
        with safe_open(path, "pt") as file:
            _refuse_others(path, file.metadata() or {}, identity)
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise RecordError(
            f"{path} is damaged ({error}); delete it, and the run makes it."
        ) from None


def _write(path: Path, tensors: Mapping[str, Tensor], identity: Mapping[str, str]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing_tensors(path):
        save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, dict(identity))
        temporary.replace(path)


def _refuse_others(path: Path, theirs: Mapping[str, str], ours: Mapping[str, str]) -> None:
    for name, value in ours.items():
        if theirs.get(name) != value:
            raise RecordError(
                f"{path} was computed from another {name} ({theirs.get(name)}, this run has "
                f"{value}); delete it, and the run makes it anew."
            )


def identity_of(policy: Policy, problems: Sequence[Problem], rule: str) -> dict[str, str]:
    """What is computed by a rule from these problems' demonstrations under this policy."""
    return {
        "rule": rule,
        "model": weights_hash(policy.folder),
        "data": content_hash([list(p.content) for p in problems]),
    }


def teacher_logprobs(
    trainer: Trainer, rows: Sequence[Row], folder: Path | None, expected: str | None
) -> dict[str, Tensor]:
    """Log-probs [response tokens] of demonstrations under their teacher, by the problem's id.

    Args:
        folder: of the teacher's checkpoint; None: the trained model as it is now.
        expected: hash of that folder's files.

    Raises:
        CheckpointError: another checkpoint lies there, or its tokens are not the policy's.
    """
    names = ("logprob",)
    if folder is None:
        with trainer.policy.whole_model():
            found = distribution_columns(trainer.policy.sampler, rows, names, trainer.training)
    else:
        if (own := weights_hash(folder)) != expected:
            raise CheckpointError(
                f"options.teacher_hash is {expected}, but {folder} has {own}; if this is the "
                "teacher you want, write that."
            )
        teacher = load_policy(folder)
        _refuse_other_tokens(teacher, rows)
        teacher.model.to(trainer.policy.sampler.model.device)
        found = distribution_columns(teacher, rows, names, trainer.training)
    return {r.problem.id: c["logprob"] for r, c in zip(rows, found, strict=True)}


def _refuse_other_tokens(teacher: Policy, rows: Sequence[Row]) -> None:
    for row in rows:
        if demonstration_row(teacher, row.problem).pair != row.pair:
            raise CheckpointError(
                f"the teacher {teacher.folder} makes other tokens of problem '{row.problem.id}' "
                "than the trained model does; take one with the same tokenizer and chat template."
            )
