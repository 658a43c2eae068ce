"""How long answers may be: by data set, and never as long as the model's context."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridge.plan.grid import Plan, load_plan
from bridge.store.schema import ConfigError
from tests.fixtures.planning import plan_changed

Change = Callable[[dict[str, Any]], None]
SHORT = 24


@pytest.fixture
def planned(tmp_path: Path, root: Path) -> Callable[[Change], Plan]:
    return lambda change: plan_changed(tmp_path, root, change)


def two_lengths(raw: dict[str, Any]) -> None:
    raw["datasets"]["short"] = {**raw["datasets"]["chains"], "max_response_tokens": SHORT}
    raw["grid"][0]["datasets"] = ["chains", "short"]


def test_a_data_set_has_its_own_length_in_training_and_evaluation(
    planned: Callable[[Change], Plan], root: Path
) -> None:
    plan, plain = planned(two_lengths), load_plan("smoke", root=root)
    for theirs in plain.runs:
        names = (theirs.model, theirs.label, theirs.seed)
        same = plan.run(names[0], "chains", *names[1:])
        short = plan.run(names[0], "short", *names[1:])
        assert same.spec_hash == theirs.spec_hash, "the others keep theirs"
        assert short.train_hash != same.train_hash and short.spec_hash != same.spec_hash
        for whole, own in (
            (same.training, short.training),
            (same.evaluation, short.evaluation),
        ):
            assert own == whole.model_copy(update={"max_response_tokens": SHORT})


def test_what_a_row_says_comes_first(planned: Callable[[Change], Plan]) -> None:
    def change(raw: dict[str, Any]) -> None:
        two_lengths(raw)
        raw["methods"]["sft"]["training"] = {"max_response_tokens": 30}

    plan = planned(change)
    assert plan.run("tiny-qwen", "short", "sft", 0).training.max_response_tokens == 30
    assert plan.run("tiny-qwen", "short", "base", 0).training.max_response_tokens == SHORT


def test_a_row_that_cannot_do_with_the_length_is_refused(
    planned: Callable[[Change], Plan],
) -> None:
    def change(raw: dict[str, Any]) -> None:
        two_lengths(raw)
        raw["methods"]["dapo"] = {"options": {"steps": 2, "overlong_buffer_tokens": SHORT + 1}}
        raw["grid"][0]["methods"] = ["dapo"]

    with pytest.raises(ConfigError, match=r"methods\.dapo: .*24 tokens \(max_response_tokens\)"):
        planned(change)


@pytest.mark.parametrize("where", ["training", "evaluation", "short"])
def test_an_answer_as_long_as_the_context_is_refused_when_planned(
    planned: Callable[[Change], Plan], where: str
) -> None:
    def change(raw: dict[str, Any]) -> None:
        two_lengths(raw)
        context = raw["models"]["tiny-qwen"]["context_tokens"]
        where_to = raw["datasets"]["short"] if where == "short" else raw[where]
        where_to["max_response_tokens"] = context

    with pytest.raises(ConfigError, match=r"leaves no room for a prompt in the .* of \d+ tokens"):
        planned(change)


def test_of_a_folder_its_own_settings_say_the_context(
    tmp_path: Path, planned: Callable[[Change], Plan]
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    files = {
        "config.json": '{"max_position_embeddings": 24}',
        "tokenizer.json": "{}",
        "model.safetensors": "",
        "chat_template.jinja": "x",
    }
    for name, text in files.items():
        (folder / name).write_text(text)

    def change(raw: dict[str, Any]) -> None:
        two_lengths(raw)
        raw["models"]["tiny-qwen"] = {"source": "local", "path": str(folder)}
        raw["grid"][0]["datasets"] = ["short"]

    with pytest.raises(ConfigError, match=r"tiny-qwen on 'short': .*context of 24 tokens"):
        planned(change)
