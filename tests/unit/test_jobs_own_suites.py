"""``bridge init`` and ``bridge pin``: a suite for the user's files, and the hashes in it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from bridge.jobs import cli
from bridge.plan.grid import Plan, load_plan
from bridge.store.schema import read_yaml
from bridge.tasks.own import OwnOptions
from bridge.tasks.registry import load_family

ROWS = [
    {"question": f"{i} ?", "answer": str(i), "demonstration": f"\\boxed{{{i}}}"} for i in range(9)
]


@pytest.fixture
def here(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "config.yaml").write_bytes((root / "config.yaml").read_bytes())
    model = tmp_path / "model"
    model.mkdir()
    texts = {
        "config.json": "{}",
        "tokenizer.json": '{"added_tokens": [{"content": "</s>", "id": 0}]}',
        "tokenizer_config.json": '{"eos_token": "</s>"}',
        "chat_template.jinja": "{{ messages }}",
        "model.safetensors": "",
    }
    for name, text in texts.items():
        (model / name).write_text(text)
    write("train", ROWS)
    write("test-1.0", [{"question": "more ?", "answer": "1"}])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, rows: list[dict[str, Any]]) -> None:
    Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def init(*more: str, model: str = "model", test: str = "test-1.0.jsonl") -> Plan:
    cli.main(["init", "mine", "--model", model, "--train", "train.jsonl", "--test", test, *more])
    return load_plan("mine", root=Path())


def refusal(capsys: pytest.CaptureFixture[str], *more: str, **named: str) -> str:
    with pytest.raises(SystemExit):
        init(*more, **named)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("bridge: ")
    return said


def test_a_suite_for_files_that_are_named_as_ours(here: Path) -> None:
    plan = init()
    assert [run.label for run in plan.runs] == ["base", "sft", "rl_zero", "cold_start"]
    model = plan.suite.models["mine"].model_dump()
    assert (model["source"], model["path"], model["pad_token"]) == ("local", "model", "</s>")
    options = plan.runs[0].dataset_options
    assert options["instruction"] == r"Put the final answer within \boxed{}."
    assert list(options["benchmarks"]) == ["test-1_0"] and options["train"]["columns"] is None


def test_columns_of_other_names_are_guessed_and_written_out(here: Path) -> None:
    write(
        "train", [{"problem": f"{i} ?", "solution": f"it is\n#### {i}", "n": i} for i in range(9)]
    )
    (here / "rewards.py").write_text("def mine(question, response, answer): return 1\n")
    plan = init("--reward", "rewards:mine", model=f"owner/name@{'a' * 40}")
    train = plan.runs[0].dataset_options["train"]
    named = {"question": "problem", "answer": "solution", "demonstration": "solution"}
    assert {k: v for k, v in train["columns"].items() if v} == named
    assert train["answer_after"] == "####" and not train["append_box"], "a reward of one's own"
    assert (
        plan.runs[0].reward == "rewards:mine" and plan.runs[0].dataset_options["instruction"] == ""
    )
    assert plan.runs[0].model_config.source == "hub"


def test_demonstrations_without_a_box_get_one(here: Path) -> None:
    write("train", [{**row, "demonstration": "so it is"} for row in ROWS])
    (spec, *_) = init().runs
    shown = load_family("own").dataset(OwnOptions.model_validate(spec.dataset_options)).train[0]
    assert shown.demonstration == f"so it is\n\\boxed{{{shown.answer}}}"


def test_without_demonstrations_there_is_no_sft(here: Path) -> None:
    write("train", [{k: row[k] for k in ("question", "answer")} for row in ROWS])
    assert [run.label for run in init().runs] == ["base", "rl_zero"]


def test_what_init_refuses(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "neither a folder nor a model of the hub" in refusal(capsys, model="owner/name")
    (here / "model/chat_template.jinja").rename(here / "kept")
    assert "no chat template" in refusal(capsys)
    (here / "kept").rename(here / "model/chat_template.jinja")
    assert "nowhere.jsonl: no such file" in refusal(capsys, test="nowhere.jsonl")
    assert "has to end in .jsonl or .csv" in refusal(capsys, test="config.yaml")
    Path("odd.jsonl").write_text('{"a": 1, "b": 2}\n')
    assert "no column looks like a question (a, b)" in refusal(capsys, test="odd.jsonl")
    assert "rewards.py; write the function there" in refusal(capsys, "--reward", "rewards:mine")
    assert "is there already" in refusal(capsys), "the suite without a reward was written"


def test_pin_writes_hashes_where_they_belong(capsys: pytest.CaptureFixture[str]) -> None:
    write("a", ROWS)
    Path("b.csv").write_text("question,answer\nq,1\n")
    Path("suites").mkdir()
    text = """\
title: t # kept
models: {m: {source: local, path: weights.jsonl}}
datasets:
  mine:
    family: own
    options:
      train:
        path: a.jsonl # a comment
        answer_after: "#"
      benchmarks: {one: {path: 'b.csv', columns: {question: q}}, two: {sha256: OLD, path: a.jsonl}}
"""
    path = Path("suites/mine.yaml")
    path.write_text(text.replace("OLD", "a" * 64))
    cli.main(["pin", "--suite", "mine"])
    one, two = (hashlib.sha256(Path(n).read_bytes()).hexdigest() for n in ("a.jsonl", "b.csv"))
    after = path.read_text()
    assert after == (
        text.replace("path: a.jsonl # a", f"path: a.jsonl\n        sha256: {one} # a")
        .replace("path: 'b.csv',", f"path: 'b.csv', sha256: {two},")
        .replace("OLD", one)
    )
    options = read_yaml(path)["datasets"]["mine"]["options"]
    assert options["train"] == {"path": "a.jsonl", "sha256": one, "answer_after": "#"}
    assert capsys.readouterr().out.count("\n") == 3
    cli.main(["pin", "--suite", "mine"])
    assert path.read_text() == after
    assert capsys.readouterr().out.count("(as before)") == 3


def test_what_pin_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    Path("suites").mkdir()
    for text, said in (
        (
            "datasets: {d: {options: {train: {path: gone.jsonl}}}}",
            "line 1: gone.jsonl: no such file",
        ),
        ("datasets: {}", "names a local file"),
        ("datasets: [", "not readable as YAML"),
    ):
        Path("suites/mine.yaml").write_text(text)
        with pytest.raises(SystemExit):
            cli.main(["pin", "--suite", "mine"])
        assert said in capsys.readouterr().err
        assert Path("suites/mine.yaml").read_text() == text
