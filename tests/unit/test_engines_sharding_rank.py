"""What one rank holds and draws at once: a base as it is stored, factors beside it, waves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bridge.engines.choosing import base_dtype
from bridge.engines.sharding.factors import LoraFactors
from bridge.engines.sharding.rollouts import GatheringEngine
from bridge.machine.ranks import ALONE
from bridge.step.rollouts import Prompt
from bridge.store.settings import ShardingConfig, TrainingConfig

ZERO3 = ShardingConfig(stage="zero3", ranks=2)


def training(**changes: Any) -> TrainingConfig:
    settings = {"max_response_tokens": 8, "lr_sft": 0.1, "lr_rl": 0.1}
    return TrainingConfig.model_validate(
        {**settings, "probe_every": 1, "checkpoint_every": 1, **changes}
    )


@pytest.mark.parametrize(
    ("stored", "changes", "loaded"),
    [
        ("bfloat16", {"sharding": ZERO3, "precision": "bfloat16"}, torch.bfloat16),
        ("float32", {"sharding": ZERO3, "precision": "bfloat16"}, torch.float32),
        ("bfloat16", {"sharding": ZERO3, "precision": "float32"}, torch.float32),
        ("bfloat16", {"precision": "bfloat16"}, torch.float32),
    ],
)
def test_ranks_load_a_file_of_bfloat16_as_it_is(
    tmp_path: Path, stored: str, changes: dict[str, Any], loaded: torch.dtype
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"dtype": stored}), encoding="utf-8")
    assert base_dtype(training(**changes), tmp_path) == loaded


@pytest.mark.parametrize("tied", [True, False])
def test_the_factors_do_not_depend_on_the_precision_of_the_weights(tied: bool) -> None:
    config = AutoConfig.for_model(
        "qwen2",
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=50,
        tie_word_embeddings=tied,
    )
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        model = AutoModelForCausalLM.from_config(config).to(dtype)
        before = {name: p.clone() for name, p in model.named_parameters()}
        found.append(LoraFactors(model, (4, 8, "all-linear"), 0, ALONE))
        assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
        assert len(found[-1].base_names) == len(before)
    whole, rounded = found
    assert whole.names == rounded.names
    for name in whole.names:
        assert whole._factors[name].dtype == torch.float32
        assert torch.equal(whole._factors[name], rounded._factors[name])
    assert any(factor.any() for factor in whole._factors.values())


class Drawing:
    """An engine that notes what it is asked at once."""

    def __init__(self) -> None:
        self.waves: list[list[int]] = []

    def generate(self, prompts: Sequence[Prompt], **_: Any) -> list[list[int]]:
        self.waves.append([len(p.ids) for p in prompts])
        return [[len(p.ids)] for p in prompts]


@pytest.mark.parametrize(
    ("room", "waves"),
    [
        (10_000, [[10, 30, 20, 10]]),
        (160, [[10, 30], [20, 10]]),
        (159, [[10], [30], [20, 10]]),
        (1, [[10], [30], [20], [10]]),
        (0, [[10], [30], [20], [10]]),
    ],
)
def test_a_rank_draws_as_many_rows_at_once_as_have_room(room: int, waves: list[list[int]]) -> None:
    engine = Drawing()
    policy: Any = SimpleNamespace(whole_model=nullcontext)
    prompts = [Prompt(tuple(range(n)), seeds=(1, 2)) for n in (10, 30, 20, 10)]
    gathering = GatheringEngine(engine, policy, room)  # type: ignore[arg-type]
    drawn: Any = gathering.generate(prompts, max_new_tokens=10, temperature=1.0)
    assert engine.waves == waves
    assert drawn == [[10], [30], [20], [10]]
