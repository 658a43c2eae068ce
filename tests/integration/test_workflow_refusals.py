"""What ``snakemake -n`` refuses of a user's models and data, before any job: one line each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bridge.store.records import file_hash
from tests.fixtures.workflow import Workspace

pytestmark = pytest.mark.slow

Suite = dict[str, Any]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The workflow, a model's folder and files of data."""
    space = Workspace.make(tmp_path_factory.mktemp("own"))
    model = space.path / "model"
    model.mkdir()
    texts = {
        "config.json": '{"model_type": "llama", "max_position_embeddings": 64}',
        "tokenizer.json": "{}",
        "chat_template.jinja": "{{ messages }}",
        "model.safetensors": "",
    }
    for name, text in texts.items():
        (model / name).write_text(text)
    for name, numbers in (("train", range(9)), ("test", range(20, 24))):
        rows = (json.dumps({"question": f"{i} ?", "answer": str(i)}) + "\n" for i in numbers)
        (space.path / f"{name}.jsonl").write_text("".join(rows))
    return space


def suite(space: Workspace) -> Suite:
    """A suite that is planned without complaint."""
    train, test = (
        {"path": f"{name}.jsonl", "sha256": file_hash(space.path / f"{name}.jsonl")}
        for name in ("train", "test")
    )
    return {
        "title": "Mine",
        "extends": "smoke",
        "models": {"mine": {"source": "local", "path": "model"}},
        "datasets": {
            "mine": {
                "family": "own",
                "options": {"train": train, "benchmarks": {"test": test}, "validation_size": 2},
            }
        },
        "training": {"max_response_tokens": 16},
        "evaluation": {"max_response_tokens": 16},
        "grid": [{"models": ["mine"], "datasets": ["mine"], "methods": ["base"], "seeds": [0]}],
    }


def options(raw: Suite) -> Any:
    return raw["datasets"]["mine"]["options"]


def a_missing_file(raw: Suite, _: Path) -> None:
    options(raw)["benchmarks"]["test"]["path"] = "gone.jsonl"


def a_changed_file(raw: Suite, _: Path) -> None:
    options(raw)["train"]["sha256"] = "0" * 64


def no_such_column(raw: Suite, _: Path) -> None:
    options(raw)["train"]["columns"] = {"question": "problem", "answer": "answer"}


def no_benchmark(raw: Suite, _: Path) -> None:
    options(raw)["benchmarks"] = {}


def no_model(raw: Suite, _: Path) -> None:
    raw["models"]["mine"]["path"] = "nowhere"


def no_template(_: Suite, here: Path) -> None:
    (here / "model" / "chat_template.jinja").rename(here / "template")


def no_room(raw: Suite, _: Path) -> None:
    raw["datasets"]["mine"]["max_response_tokens"] = 64


def no_reward(raw: Suite, _: Path) -> None:
    raw["datasets"]["mine"]["reward"] = "rewards:mine"


def another_set(raw: Suite, here: Path) -> None:
    raw["datasets"]["mine"] = {"family": "cola", "options": {"data_root": "sets"}}
    for name in ("cola_train/train.jsonl", "cola_validation/test.jsonl"):
        (here / "sets" / name).parent.mkdir(parents=True, exist_ok=True)
        (here / "sets" / name).write_text("{}\n")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (a_missing_file, "gone.jsonl: no such file; correct its path in the suite."),
        (a_changed_file, "train.jsonl: the file's SHA-256 is"),
        (no_such_column, "columns.question: there is no column 'problem'; there are: answer, qu"),
        (no_benchmark, "benchmarks: Dictionary should have at least 1 item"),
        (no_model, "models.mine.path: there is no checkpoint at nowhere"),
        (no_template, "has no chat template"),
        (no_room, "leaves no room for a prompt in the model's context of 64 tokens"),
        (no_reward, "rewards.py; write the function there"),
        (another_set, "cola_train/train.jsonl: its SHA-256 is"),
    ],
)
def test_the_plan_refuses(
    fresh: Workspace, change: Callable[[Suite, Path], None], said: str
) -> None:
    raw = suite(fresh)
    change(raw, fresh.path)
    (fresh.path / "suites" / "mine.yaml").write_text(yaml.safe_dump(raw))
    done = fresh.snakemake("-n", "--config", "suite=mine")
    if (fresh.path / "template").exists():
        (fresh.path / "template").rename(fresh.path / "model" / "chat_template.jinja")
    assert done.returncode == 2, done.stdout
    lines = [line for line in done.stderr.splitlines() if line.startswith("bridge: ")]
    assert len(lines) == 1 and said in lines[0], done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("seen", "slots"), [("", 0), ("0", 1)])
def test_what_is_right_is_planned_for_what_the_machine_has(
    fresh: Workspace, seen: str, slots: int
) -> None:
    """A GPU where there is one; else the processor, and the plan says so."""
    (fresh.path / "suites" / "mine.yaml").write_text(yaml.safe_dump(suite(fresh)))
    done = fresh.snakemake("-n", "--config", "suite=mine", CUDA_VISIBLE_DEVICES=seen)
    assert done.returncode == 0, done.stderr
    text = done.stdout + done.stderr
    assert text.count(f"gpu={slots},") == 2 and f"gpu={1 - slots}" not in text
    said = "no GPU can be seen: 1 of 1 runs are for the processor."
    assert (said in text) == (slots == 0)
