"""Answers that a model has no room for, refused when planned; a job counts its prompts too."""

from __future__ import annotations

from pathlib import Path

from bridge.models import CheckpointError
from bridge.models.folder import settings
from bridge.store.schema import ConfigError
from bridge.store.settings import LocalModel, ModelConfig, TinyModel


def check_context(model: ModelConfig, longest: int, where: str) -> None:
    """Refuse answers as long as the model's context, which leaves no token for a prompt.

    Raises:
        ConfigError: with both lengths.
    """
    context = _context_tokens(model)
    if context is not None and longest >= context:
        raise ConfigError(
            f"{where}: max_response_tokens is {longest}, which leaves no room for a prompt in the "
            f"model's context of {context} tokens; lower it, for the suite or for this data set."
        )


def _context_tokens(model: ModelConfig) -> int | None:
    """The longest text that a model reads, where that is known before it is loaded."""
    if isinstance(model, TinyModel):
        return model.context_tokens
    if not isinstance(model, LocalModel):
        return None
    try:
        found = settings(Path(model.path), "config.json").get("max_position_embeddings")
    except CheckpointError:  # refused where the folder is checked
        return None
    return found if isinstance(found, int) else None
