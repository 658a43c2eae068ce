"""Two ranks under DeepSpeed that sample with vLLM make the run of one process that draws the same.

vLLM and the native engine draw other tokens from the same seed. So the run of one process is given
what the two ranks drew, and everything else is its own: weights, losses, log-probs. All cases are
trained in one start of ``torchrun``, over gloo; ``make test-vllm`` runs them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bridge.models.checkpoint import load_policy
from bridge.run import building
from bridge.run import loop as run_module
from bridge.store.records import RunFolder
from tests.fixtures.same_run import assert_same_run, folder_in
from tests.fixtures.sharded_vllm import Replaying
from tests.fixtures.sharded_world import start, train_case
from tests.fixtures.tiny_run import TextGrader, make_base, read_lines

pytest.importorskip("vllm", reason="needs vLLM: run `make test-vllm`")
pytest.importorskip("deepspeed")
pytestmark = [pytest.mark.vllm, pytest.mark.deepspeed]

RUNS = {
    ("rl_zero", "zero3"): {"steps": 5},
    ("bridge", "zero3"): {"steps": 5, "rank": 4, "alpha": 8},
    ("bridge", "zero2"): {"steps": 5, "rank": 4, "alpha": 8},
}


def case_of(base: Path, root: Path, method: str, stage: str, **changes: Any) -> dict[str, Any]:
    training = {"engine": "vllm", "kv_cache_gib": 0.1, "temperature": 1.3, "probe_every": 2}
    sharding = {"stage": stage, "ranks": 2}
    return {
        "kind": "run",
        "base": str(base),
        "results": str(root / f"{method}-{stage}"),
        "file": str(root / f"{method}-{stage}.json"),
        "method": method,
        "options": RUNS[method, stage],
        "training": {**training, "sharding": sharding, **changes},
    }


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vLLM's attention on a CPU has no kernel for heads narrower than 32."""
    return make_base(tmp_path_factory.mktemp("wide") / "base", hidden=64, layers=3, steps=60)


@pytest.fixture(scope="module")
def both(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that two ranks do, in one start."""
    root = tmp_path_factory.mktemp("both")
    cases = [case_of(wide, root, *run) for run in RUNS]
    stale = case_of(wide, root, "rl_zero", "zero3", lr_rl=0.05)
    results = {"results": str(root / "stale"), "file": str(root / "stale.txt")}
    start([*cases, {**stale, **results, "kind": "stale"}], root, "tests.fixtures.sharded_vllm")
    return root


def told(root: Path, method: str, stage: str, rank: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / f"{method}-{stage}.json.{rank}").read_text())
    return found


@pytest.mark.parametrize(("method", "stage"), RUNS)
def test_five_steps_are_those_of_one_process_that_samples_the_same(
    both: Path, wide: Path, tmp_path: Path, method: str, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = told(both, method, stage)["calls"]
    assert calls == told(both, method, stage, rank=1)["calls"], "every rank has all rollouts"
    monkeypatch.setattr(building, "build_engine", lambda *_: Replaying(calls))
    monkeypatch.setattr(run_module, "GraderPool", TextGrader)
    alone = train_case(case_of(wide, tmp_path, method, stage, sharding={}))
    found = folder_in(both / f"{method}-{stage}", method)
    # The one process compares its log-probs with those that the two ranks' engines told.
    assert_same_run(found, alone, wide, but={"sync_logprob_gap"})
    for folder in (found, alone):
        assert all(gap < 1e-3 for gap in gaps_of(folder))
    assert json.loads(found.done.read_text())["ranks"] == 2


def gaps_of(folder: RunFolder) -> list[float]:
    gaps = [line["sync_logprob_gap"] for line in read_lines(folder.dynamics) if line["step"] > 0]
    assert len(gaps) == 5
    return gaps


@pytest.mark.parametrize("rank", [0, 1])
def test_log_probs_are_those_of_a_full_pass(both: Path, wide: Path, rank: int) -> None:
    """Of every token that was drawn at the base model, before the first update."""
    call = told(both, "rl_zero", "zero3", rank)["calls"][0]
    model, largest = load_policy(wide).model, 0.0
    for prompt, row in zip(call["prompts"], call["drawn"], strict=True):
        for completion in row:
            ids, n = prompt["ids"] + completion["ids"], len(prompt["ids"])
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids])).logits[0, n - 1 : -1]
            found = torch.tensor(completion["logprobs"])
            expected = (logits / (call["temperature"] or 1.0)).log_softmax(-1)
            expected = expected.gather(-1, torch.tensor(completion["ids"])[:, None]).squeeze(-1)
            largest = max(largest, float((found - expected).abs().max()))
    assert 0 < largest < 1e-3


def test_gathered_weights_are_never_whole_at_once(both: Path, wide: Path) -> None:
    """vLLM holds the embedding to the end, and of its layers one: gate and up are the largest."""
    sizes = {name: 4 * p.numel() for name, p in load_policy(wide).model.named_parameters()}
    widest = sizes["model.embed_tokens.weight"] + sum(
        size for name, size in sizes.items() if "layers.0.mlp" in name and "down" not in name
    )
    for rank in (0, 1):
        seen = told(both, "rl_zero", "zero3", rank)
        assert seen["pushes"] == 6, "at the start and after each step"
        assert 0 < seen["peak_bytes"] <= 1.05 * widest < 0.2 * sum(sizes.values())


def test_a_push_of_old_weights_ends_the_run_in_one_sentence(both: Path) -> None:
    for rank in (0, 1):
        said = (both / f"stale.txt.{rank}").read_text()
        assert "after a push of the weights vLLM's log-probs differ from the trainer's by" in said
        assert said.endswith("set engine: native.") and "\n" not in said
    assert not folder_in(both / "stale", "rl_zero").done.exists()
