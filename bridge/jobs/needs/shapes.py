"""The sizes of a decoder that decide its memory and its arithmetic, and its number of weights."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import Field

from bridge.store.schema import Closed, ConfigError, read_yaml, validate
from bridge.store.settings import HubModel, LocalModel, ModelConfig, PackageModel
from bridge.store.strict import strict_json
from bridge.tasks.base import SyntheticFamily
from bridge.tasks.registry import load_family

_TABLE = Path(__file__).with_name("shapes.yaml")
_SPECIAL_TOKENS = 5
"""Of a tiny model's vocabulary, besides the words of its families."""


class ModelShape(Closed):
    """A decoder of the Llama family, by the names of its ``config.json``."""

    architecture: Literal["qwen2", "qwen3", "llama"]
    hidden_size: int = Field(ge=1)
    intermediate_size: int = Field(ge=1)
    num_hidden_layers: int = Field(ge=1)
    num_attention_heads: int = Field(ge=1)
    num_key_value_heads: int = Field(ge=1)
    head_dim: int | None = None
    """``hidden_size / num_attention_heads`` where left out."""
    vocab_size: int = Field(ge=1)
    tie_word_embeddings: bool
    max_position_embeddings: int = Field(ge=1)

    @property
    def head(self) -> int:
        """Width of one attention head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def query_width(self) -> int:
        return self.num_attention_heads * self.head

    @property
    def key_width(self) -> int:
        """Of the keys, and of the values, of one token in one layer."""
        return self.num_key_value_heads * self.head

    @property
    def linears(self) -> tuple[tuple[int, int], ...]:
        """(inputs, outputs) of the matrices of one layer."""
        h, a, k, m = self.hidden_size, self.query_width, self.key_width, self.intermediate_size
        return ((h, a), (h, k), (h, k), (a, h), (h, m), (h, m), (m, h))

    @property
    def layer_parameters(self) -> int:
        """Weights of one layer: matrices, biases of queries, keys and values (Qwen2), norms of the
        layer and (Qwen3) of each head's queries and keys."""
        matrices = sum(i * o for i, o in self.linears)
        biases = self.query_width + 2 * self.key_width if self.architecture == "qwen2" else 0
        norms = 2 * self.hidden_size + (2 * self.head if self.architecture == "qwen3" else 0)
        return matrices + biases + norms

    @property
    def embedding_parameters(self) -> int:
        """Weights of the embedding, and as many of an output layer that is not tied to it once."""
        return self.vocab_size * self.hidden_size

    @property
    def parameters(self) -> int:
        """Distinct weights of the model."""
        embeddings = self.embedding_parameters * (1 if self.tie_word_embeddings else 2)
        return embeddings + self.num_hidden_layers * self.layer_parameters + self.hidden_size

    @property
    def linear_parameters(self) -> int:
        """Weights of all matrices of all layers."""
        return self.num_hidden_layers * sum(i * o for i, o in self.linears)

    def lora_parameters(self, rank: int) -> int:
        """Weights of LoRA factors on all matrices of all layers."""
        return self.num_hidden_layers * rank * sum(i + o for i, o in self.linears)


def shape_of(model: ModelConfig, where: str) -> ModelShape:
    """The shape of a model of a suite.

    Raises:
        ConfigError: a hub model that the table does not know, or a folder whose ``config.json``
            is missing or of another architecture; the message begins with ``where``.
    """
    if isinstance(model, HubModel | PackageModel):
        table = _table()
        name = model.repo if isinstance(model, HubModel) else model.package
        if name not in table:
            raise ConfigError(
                f"{where}: the shape of {name} is not known; add it to {_TABLE.name} of "
                "bridge/jobs/needs from its config.json."
            )
        return table[name]
    if isinstance(model, LocalModel):
        return _from_config(Path(model.path) / "config.json", where)
    words = {
        word
        for family in model.families
        for word in cast(SyntheticFamily, load_family(family)).vocabulary()
    }
    return ModelShape(
        architecture=model.architecture,
        hidden_size=model.hidden,
        intermediate_size=2 * model.hidden,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        num_key_value_heads=model.heads,
        vocab_size=len(words) + _SPECIAL_TOKENS,
        tie_word_embeddings=True,
        max_position_embeddings=model.context_tokens,
    )


@cache
def _table() -> dict[str, ModelShape]:
    return {
        repo: validate(ModelShape, values, _TABLE) for repo, values in read_yaml(_TABLE).items()
    }


def _from_config(path: Path, where: str) -> ModelShape:
    try:
        raw: Any = strict_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ConfigError(f"{where}: {path} is missing or damaged; correct the path.") from None
    kind = raw.get("model_type") if isinstance(raw, dict) else None
    if kind == "qwen2_moe" and raw.get("num_experts") == 0:
        kind = "qwen2"  # as the tiny models are written
    if kind not in ("qwen2", "qwen3", "llama"):
        raise ConfigError(f"{where}: {path}: no prediction for the architecture {kind!r}.")
    kept = {name: raw[name] for name in ModelShape.model_fields if raw.get(name) is not None}
    return validate(ModelShape, {"tie_word_embeddings": False, **kept, "architecture": kind}, path)
