"""A whole run on real problems with a tiny model: data, demonstrations, rollouts, records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bridge.models.tiny import build_model, build_tokenizer, save_base
from bridge.run.loop import train_run
from bridge.store.records import read_json
from bridge.store.settings import LocalModel
from bridge.tasks.registry import load_family
from tests.fixtures.real_data import data_root
from tests.fixtures.tiny_run import make_spec


@pytest.mark.slow
@pytest.mark.data
def test_sft_and_rl_on_gsm8k(tmp_path: Path) -> None:
    tokenizer = build_tokenizer([r"\boxed{2}", "so"], context_tokens=1024)
    model = build_model(
        "llama", tokenizer=tokenizer, hidden=16, layers=1, heads=2, context_tokens=1024, seed=0
    )
    save_base(model, tokenizer, tmp_path / "base")
    options = load_family("gsm8k").Options(data_root=data_root())
    spec = replace(
        make_spec(tmp_path, "cold_start", options={"sft_steps": 1, "rl_steps": 1}),
        model_config=LocalModel(source="local", path=str(tmp_path / "base")),
        family="gsm8k",
        dataset="gsm8k",
        dataset_options=options.model_dump(mode="json"),
    )
    assert train_run(spec, results=tmp_path / "results", threads=1) == "done"
    done = read_json(spec.folder(tmp_path / "results").done)
    assert done["n_steps"] == 2
    assert done["demo_reward"] == 1.0, "every demonstration earns the reward"
    assert done["demonstrations"]["by_source"] == {"human": 6973}, "what was matched is on record"
