"""Refuse an unusable checkpoint folder in one sentence, before anything heavy is loaded."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from bridge.evaluation import EvaluationError
from bridge.models.folder import check_folder, weight_files


def check_checkpoint(folder: Path) -> None:
    """Check that a folder holds a configuration, readable safetensors, a tokenizer and a template.

    Raises:
        CheckpointError, EvaluationError: one sentence naming the file and the remedy.
    """
    check_folder(folder)
    for path in weight_files(folder):
        _check_tensors(path)


def _check_tensors(path: Path) -> None:
    try:
        with safe_open(path, framework="numpy") as stream:
            names = list(stream.keys())
    except (SafetensorError, OSError) as error:
        raise EvaluationError(f"{path} is damaged ({error}); train the run again.") from error
    if not names:
        raise EvaluationError(f"{path} holds no tensors; train the run again.")
