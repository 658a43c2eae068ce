"""Models of the hub, by a stand-in for the hub's cache, and local ones that a suite changes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bridge.evaluation.model import EvaluatedPolicy as EvaluatedPolicy
from bridge.machine.hub import HubError
from bridge.models import CheckpointError, adapting
from bridge.models.adapting import prepare_hub_model, prepare_local_model
from bridge.models.checkpoint import load_policy
from bridge.models.tiny import build_model, save_base
from bridge.plan.config import Suite
from bridge.run.loop import train_run
from bridge.store.records import folder_hash, read_json
from bridge.store.schema import ConfigError, validate
from bridge.store.settings import HubModel, LocalModel
from bridge.tasks.real.prompts import BOXED
from tests.fixtures.tiny_run import make_spec

COMMIT = "c" * 40
# What SimpleRL's qwen-boxed template makes of a problem, token by token of this test's vocabulary.
EXPECTED = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\nWhat is 1+1?\n"
    "Please reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
    "<|im_start|>assistant\n"
)
ENDS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen base model with the special tokens of the real ones, as a repository has it."""
    words = {w: i for i, w in enumerate([*ENDS, "<unk>", *map(chr, range(10, 127))])}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        eos_token=ENDS[0],
        pad_token=ENDS[0],
        additional_special_tokens=ENDS[1:],
        clean_up_tokenization_spaces=False,
    )
    model = build_model(
        "qwen2", tokenizer=tokenizer, hidden=16, layers=1, heads=2, context_tokens=512, seed=0
    )
    folder = tmp_path_factory.mktemp("snapshots") / COMMIT
    save_base(model, tokenizer, folder)
    return folder


@pytest.fixture
def cache(released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache that a test may spoil, and the client that serves it."""
    folder = Path(shutil.copytree(released, tmp_path / "cache" / COMMIT))
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: str(folder))
    return folder


def hub(**over: Any) -> HubModel:
    fields = {"source": "hub", "repo": "o/n", "revision": COMMIT, "prompt": "qwen-boxed"}
    return HubModel(**fields | over)


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(read_json(path) | values))


def test_prompts_are_those_of_simplerl(cache: Path, tmp_path: Path) -> None:
    before = folder_hash(cache)
    folder = prepare_hub_model(hub(), tmp_path / "base")
    policy = load_policy(folder)
    ids = policy.prompt_ids("What is 1+1?" + BOXED)
    assert policy.tokenizer.convert_ids_to_tokens(ids) == _tokens(EXPECTED)
    assert (folder / "model.safetensors").is_symlink(), "weights are linked, not copied"
    assert folder_hash(cache) == before, "the hub's cache is never written to"


def _tokens(text: str) -> list[str]:
    return re.findall(r"<\|[a-z_]+\|>|.", text, re.DOTALL)


def test_answers_end_at_either_end_token(cache: Path, tmp_path: Path) -> None:
    folder = prepare_hub_model(hub(), tmp_path / "base")
    lm = EvaluatedPolicy(folder, batch_size=2, max_response_tokens=8)
    assert set(lm._end_ids) == {0, 2}
    asked = [{"role": "user", "content": "What is 1+1?" + BOXED}]
    assert lm.apply_chat_template(asked) == EXPECTED


def test_a_chat_template_of_the_model_is_left_alone(cache: Path, tmp_path: Path) -> None:
    (cache / "chat_template.jinja").write_text("{{ messages[0]['content'] }}!")
    folder = prepare_hub_model(hub(prompt="chat-template"), tmp_path / "base")
    policy = load_policy(folder)
    assert policy.tokenizer.convert_ids_to_tokens(policy.prompt_ids("ab")) == ["a", "b", "!"]
    assert read_json(folder / "generation_config.json")["eos_token_id"] == 0


def test_thinking_is_switched_off_in_the_template(cache: Path, tmp_path: Path) -> None:
    wanted = {"prompt": "chat-template-no-thinking"}
    # Qwen3's own condition, in its template's file or in the tokenizer's settings.
    template = (
        "{{ messages[0]['content'] }}"
        "{% if enable_thinking is defined and enable_thinking is false %}!{% endif %}"
    )
    (cache / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    with pytest.raises(CheckpointError, match="no switch enable_thinking; set prompt: chat-templ"):
        prepare_hub_model(hub(**wanted), tmp_path / "base")
    (cache / "chat_template.jinja").write_text(template)
    on = load_policy(prepare_hub_model(hub(prompt="chat-template"), tmp_path / "on"))
    assert on.tokenizer.convert_ids_to_tokens(on.prompt_ids("ab")) == ["a", "b"]
    off = load_policy(prepare_hub_model(hub(**wanted), tmp_path / "off"))
    assert off.tokenizer.convert_ids_to_tokens(off.prompt_ids("ab")) == ["a", "b", "!"]
    (cache / "chat_template.jinja").unlink()
    edit(cache / "tokenizer_config.json", chat_template=template)
    settings = load_policy(prepare_hub_model(hub(**wanted), tmp_path / "settings"))
    assert settings.tokenizer.convert_ids_to_tokens(settings.prompt_ids("ab")) == ["a", "b", "!"]


def test_a_pad_token_is_supplied(cache: Path, tmp_path: Path) -> None:
    edit(cache / "tokenizer_config.json", pad_token=None)
    with pytest.raises(CheckpointError, match="has no pad token; name one of its special tokens"):
        prepare_hub_model(hub(), tmp_path / "base")
    with pytest.raises(CheckpointError, match="pad_token '<pad>' is not a special token"):
        prepare_hub_model(hub(pad_token="<pad>"), tmp_path / "base")
    folder = prepare_hub_model(hub(pad_token="<|im_start|>"), tmp_path / "base")
    assert load_policy(folder).pad_token_id == 1
    assert read_json(cache / "tokenizer_config.json")["pad_token"] is None


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (
            lambda c: (c / "model.safetensors").unlink(),
            {},
            r"o/n at cccccccccccc has no \*\.safetensors",
        ),
        (
            lambda c: (c / "tokenizer.json").unlink(),
            {},
            r"o/n at cccccccccccc has no tokenizer\.json; only models with a fast tokenizer",
        ),
        (
            lambda c: edit(c / "tokenizer.json", added_tokens=[]),
            {},
            r"its vocabulary has no <\|im_end\|>, which prompt: qwen-boxed",
        ),
        (lambda c: None, {"prompt": "chat-template"}, "has no chat template; set prompt"),
    ],
)
def test_what_cannot_be_used_is_refused(
    cache: Path,
    tmp_path: Path,
    spoil: Callable[[Path], object],
    options: dict[str, Any],
    message: str,
) -> None:
    spoil(cache)
    with pytest.raises(CheckpointError, match=message) as caught:
        prepare_hub_model(hub(**options), tmp_path / "base")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*base*")), "nothing is left behind"


def test_trouble_with_the_hub_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Path:
        raise HubError("model o/n is gated; accept its terms")

    monkeypatch.setattr(adapting, "snapshot", fail)
    with pytest.raises(CheckpointError, match="o/n is gated; accept its terms"):
        prepare_hub_model(hub(), tmp_path / "base")


def test_the_hub_is_asked_once(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = prepare_hub_model(hub(), tmp_path / "base")
    monkeypatch.setattr(adapting, "snapshot", lambda *a: pytest.fail("asked again"))
    assert prepare_hub_model(hub(), tmp_path / "base") == folder
    monkeypatch.undo()
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: str(cache))
    changed = prepare_hub_model(hub(pad_token="<|im_end|>"), tmp_path / "base")
    assert load_policy(changed).pad_token_id == 2, "another configuration is another folder"


def test_a_run_starts_from_a_model_of_the_hub(cache: Path, tmp_path: Path) -> None:
    spec = replace(make_spec(tmp_path, "sft", options={"steps": 1}), model_config=hub())
    assert train_run(spec, results=tmp_path / "results", threads=1) == "done"
    folder = spec.folder(tmp_path / "results")
    done = read_json(folder.done)
    base = tmp_path / "results" / "test" / "models" / "tiny"
    assert done["hashes"]["base_model"] == read_json(base / "base.json")["hash"]
    trained = load_policy(folder.policy)
    assert trained.tokenizer.chat_template == adapting.QWEN_BOXED
    assert trained.model.generation_config.eos_token_id == [2, 0]


def test_a_local_model_takes_the_same_changes(released: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(released, tmp_path / "own"))
    local = LocalModel(source="local", path=str(own))
    assert prepare_local_model(local, tmp_path / "base") == own, "nothing to change"
    assert not (tmp_path / "base").exists()
    wanted = local.model_copy(update={"prompt": "qwen-boxed", "pad_token": "<|im_start|>"})
    before = folder_hash(own)
    folder = prepare_local_model(wanted, tmp_path / "base")
    policy = load_policy(folder)
    assert policy.tokenizer.convert_ids_to_tokens(
        policy.prompt_ids("What is 1+1?" + BOXED)
    ) == _tokens(EXPECTED)
    assert policy.pad_token_id == 1
    assert folder_hash(own) == before, "the user's folder is never written to"
    first = read_json(folder / "base.json")["hash"]
    edit(own / "tokenizer_config.json", model_max_length=77)
    prepare_local_model(wanted, tmp_path / "base")
    assert read_json(folder / "base.json")["hash"] != first, "another folder is another base"
    assert load_policy(folder).tokenizer.model_max_length == 77
    with pytest.raises(CheckpointError, match="nowhere; correct the model's path"):
        prepare_local_model(wanted.model_copy(update={"path": "nowhere"}), tmp_path / "base")


@pytest.mark.parametrize("revision", ["main", "v1.0", "c" * 39, ""])
def test_only_commits_pin_a_model(revision: str) -> None:
    raw = {"models": {"m": {"source": "hub", "repo": "o/n", "revision": revision}}}
    with pytest.raises(ConfigError, match=r"models\.m\.revision: String should match"):
        validate(Suite, raw | SUITE, "suite.yaml")


SUITE: dict[str, Any] = {
    "title": "t",
    "datasets": {},
    "training": {
        "max_response_tokens": 4,
        "lr_sft": 0.1,
        "lr_rl": 0.1,
        "probe_every": 1,
        "checkpoint_every": 1,
    },
    "evaluation": {"max_response_tokens": 4, "n_samples": 0, "sampled_questions": 0},
    "grid": [{"models": ["m"], "datasets": ["d"], "methods": ["sft"], "seeds": [0]}],
}
