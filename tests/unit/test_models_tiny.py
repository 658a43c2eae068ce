"""The tiny base models are ordinary checkpoints: other tools read them as we do."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from lm_eval.models.huggingface import HFLM
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from bridge.models.checkpoint import load_policy
from bridge.models.tiny import build_model, build_tokenizer, pretrain, save_base
from bridge.plan.config import load_suite
from bridge.store.records import ROOT
from bridge.store.settings import TinyModel
from bridge.tasks.registry import load_family

SUITES = sorted([*ROOT.glob("suites/*.yaml"), *ROOT.glob("studies/*/suites/*.yaml")])
MADE = {
    f"{path.stem} {name}": model
    for path in SUITES
    for name, model in load_suite(path).models.items()
    if isinstance(model, TinyModel)
}


def written(model: TinyModel, folder: Path) -> Path:
    """The model as a suite makes it, untrained."""
    words = [word for name in model.families for word in load_family(name).vocabulary()]
    tokenizer = build_tokenizer(words, context_tokens=model.context_tokens)
    shape = {n: getattr(model, n) for n in ("hidden", "layers", "heads", "context_tokens")}
    network = build_model(model.architecture, tokenizer=tokenizer, seed=1, **shape)
    save_base(network, tokenizer, folder)
    return folder


@pytest.mark.parametrize("name", list(MADE))
def test_other_tools_make_the_same_ids(name: str, tmp_path: Path) -> None:
    model = MADE[name]
    folder = written(model, tmp_path / "base")
    policy = load_policy(folder)
    readers = {
        "AutoTokenizer": AutoTokenizer.from_pretrained(folder, trust_remote_code=False),
        "lm-eval's command line": HFLM(pretrained=str(folder), device="cpu").tokenizer,
    }
    for family in map(load_family, model.families):
        for problem in family.dataset(family.Options()).demonstrations[:20]:
            assert problem.demonstration is not None
            for text in (policy.prompt(problem.question), problem.demonstration):
                ours = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
                assert policy.tokenizer.unk_token_id not in ours
                for reader, tokenizer in readers.items():
                    theirs = tokenizer(text, add_special_tokens=False)["input_ids"]
                    assert theirs == ours, reader
                    decoded = tokenizer.decode(ours, skip_special_tokens=True)
                    assert decoded == policy.text(ours), reader


def test_the_tiny_qwen_is_qwen2_weight_for_weight(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(["a", "b"], context_tokens=32)
    shape = {"hidden": 32, "layers": 3, "heads": 2, "context_tokens": 32}
    ours = build_model("qwen2", tokenizer=tokenizer, seed=5, **shape).eval()
    torch.manual_seed(5)
    plain = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=32,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).eval()
    theirs = plain.state_dict()
    assert list(ours.state_dict()) == list(theirs)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.state_dict().items())
    ids = torch.tensor([[2, 5, 6, 5, 3]])
    with torch.no_grad():
        assert torch.equal(ours(ids).logits, plain(ids).logits)


@pytest.mark.parametrize("steps", [1, 2])
def test_the_fewest_steps_of_pretraining_train(steps: int) -> None:
    """A single step is all warm-up: nothing is left for the rate to fall over."""
    tokenizer = build_tokenizer(["a", "b"], context_tokens=32)
    shape = {"hidden": 32, "layers": 1, "heads": 2, "context_tokens": 32}
    model = build_model("qwen2", tokenizer=tokenizer, seed=5, **shape)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen: list[int] = []
    pretrain(
        model,
        tokenizer,
        [itertools.repeat(("a", "b"))],
        [],
        steps=steps,
        habit_steps=0,
        batch_size=2,
        learning_rate=1e-2,
        seed=0,
        on_step=lambda step, loss: seen.append(step),
    )
    assert seen == list(range(1, steps + 1))
    assert any(not torch.equal(value, before[n]) for n, value in model.state_dict().items())
