"""Whether an adapter's ``targets`` name layers that a model has, where that can be known."""

from __future__ import annotations

import re
from pathlib import Path

from bridge.models.folder import settings
from bridge.store.schema import ConfigError, shown
from bridge.store.settings import HubModel, ModelConfig, PackageModel, TinyModel

ALL = "all-linear"
_LAYERS = tuple(
    [f"self_attn.{name}_proj" for name in "qkvo"]
    + [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
)
_MOST_LAYERS = 200
_NAMES = (
    *(f"model.layers.{i}.{name}" for i in range(_MOST_LAYERS) for name in _LAYERS),
    "lm_head",
)
_KNOWN = ("qwen2", "qwen3", "llama")


def check_targets(targets: str, model: ModelConfig, where: str) -> None:
    """Refuse what fits no layer: ``targets`` is ``all-linear`` or, as in peft, a regular expression
    of whole names. The layers of a model of the hub are known once it is there, not before.

    Raises:
        ConfigError: one sentence that begins with ``where``.
    """
    if targets == ALL:
        return
    advice = rf"write {ALL}, or a regular expression of whole names like .*\.q_proj"
    try:
        pattern = re.compile(targets)
    except re.error as error:
        raise ConfigError(
            f"{where}: {shown(targets)} is no regular expression ({error}); {advice}."
        ) from None
    if not any(map(pattern.fullmatch, _NAMES)) and _architecture(model) in _KNOWN:
        raise ConfigError(
            f"{where}: {shown(targets)} fits no layer, and those of this model are named like "
            f"{_NAMES[0]} ({', '.join(name.split('.')[1] for name in _LAYERS)}); {advice}."
        )


def _architecture(model: ModelConfig) -> str | None:
    if isinstance(model, HubModel):
        return None
    if isinstance(model, PackageModel):
        return "llama"
    if isinstance(model, TinyModel):
        return model.architecture
    return settings(Path(model.path), "config.json").get("model_type")
