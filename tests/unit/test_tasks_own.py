"""The user's own problems: read from files and from the hub, checked, refused by file and line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bridge.machine.hub import HubError
from bridge.store.schema import ConfigError
from bridge.tasks.base import Problem, ProblemError, check_disjoint, check_problems
from bridge.tasks.own import FAMILY, OwnOptions
from bridge.tasks.own_data import sources
from bridge.tasks.own_data.golds import check_golds
from bridge.tasks.own_data.rows import read_problems
from bridge.tasks.own_data.sources import OwnSource

GOOD = {"id": "a", "question": "2 + 2 ?", "answer": "4"}
USER = {"role": "user", "content": "2 + 2 ?"}
SHOWN = {"role": "assistant", "content": "It is \\boxed{4}"}


def named(path: Path, text: str, **settings: Any) -> OwnSource:
    path.write_bytes(text.encode())
    digest = hashlib.sha256(text.encode()).hexdigest()
    return OwnSource.model_validate({"path": str(path), "sha256": digest, **settings})


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def read(source: OwnSource) -> tuple[Problem, ...]:
    return read_problems(source, "")


def test_a_row_needs_a_question_and_an_answer(tmp_path: Path) -> None:
    full = {"id": "b", "question": "1 + 3 ?", "answer": 4, "difficulty": 3}
    first, second = read(named(tmp_path / "p.jsonl", lines({"question": "?", "answer": "1"}, full)))
    assert first == Problem("p/1", "?", "1", 0)
    assert second == Problem("b", "1 + 3 ?", "4", 3)


def test_columns_of_other_names_are_mapped_and_the_rest_is_not_read(tmp_path: Path) -> None:
    row = {"problem": "2 + 2 ?", "solution": "2 + 2 = 4\n#### 4 ", "author": {"name": "x"}}
    mapping = {"question": "problem", "answer": "solution", "demonstration": "solution"}
    source = named(tmp_path / "p.jsonl", lines(row), columns=mapping, answer_after="####")
    (problem,) = read(source)
    assert (problem.question, problem.answer) == ("2 + 2 ?", "4")
    assert problem.demonstration == row["solution"]
    wrong = source.model_copy(update={"columns": source.columns.model_copy(update={"id": "idx"})})
    with pytest.raises(ProblemError, match=r"columns\.id: there is no column 'idx'; there are: au"):
        read(wrong)
    none = named(tmp_path / "n.jsonl", lines({**row, "solution": "4"}), columns=mapping)
    with pytest.raises(ProblemError, match="line 1: answer: it has no '####'"):
        read(none.model_copy(update={"answer_after": "####"}))


def test_a_table_of_comma_separated_values(tmp_path: Path) -> None:
    text = 'question,answer,difficulty,demonstration\n"2, then 3 ?",5,2,\n"a\nb ?",6,1,\\boxed{6}\n'
    first, second = read(named(tmp_path / "p.csv", "\ufeff" + text))
    assert first == Problem("p/2", "2, then 3 ?", "5", 2)
    assert second == Problem("p/4", "a\nb ?", "6", 1, "\\boxed{6}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("question,answer\n1 + 1 ?,2,\n", "line 2: 3 cells under 2 names"),
        ("question,question\na,b\n", "two columns have one name"),
        ('question,answer\n"open,2\n', "line 2: unexpected end of data"),
        ("question,answer\n", "the file has no line"),
        (
            "question,answer,difficulty\na,b,hard\n",
            "line 2: difficulty: Input should be a valid in",
        ),
    ],
)
def test_a_malformed_table_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ProblemError, match=rf"p\.csv.*{message}"):
        read(named(tmp_path / "p.csv", text))


def test_chats_give_question_demonstration_and_gold(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be brief."}
    rows = [
        {"messages": [system, USER, SHOWN]},
        {"messages": [{**USER, "content": "?"}], "answer": 1},
    ]
    first, second = read(named(tmp_path / "p.jsonl", lines(*rows)))
    assert (first.question, first.answer) == ("Be brief.\n\n2 + 2 ?", "4")
    assert (first.demonstration, second.demonstration) == (SHOWN["content"], None)


@pytest.mark.parametrize("turns", [[], [SHOWN], [USER, SHOWN, USER], [USER, USER], [SHOWN, USER]])
def test_other_chats_are_refused(tmp_path: Path, turns: list[Any]) -> None:
    row = {"messages": turns, "answer": "4"}
    with pytest.raises(ProblemError, match="line 1: messages: expected a user's turn"):
        read(named(tmp_path / "p.jsonl", lines(row)))


def test_each_of_several_demonstrations_is_taught(tmp_path: Path) -> None:
    shown = ["\\boxed{4}", "so \\boxed{4}", "4 it is: \\boxed{4}"]
    (problem,) = read(named(tmp_path / "p.jsonl", lines({**GOOD, "demonstration": shown})))
    assert [(p.id, p.demonstration) for p in problem.demonstrated()] == [
        ("a", shown[0]),
        ("a#2", shown[1]),
        ("a#3", shown[2]),
    ]


def test_a_box_is_put_behind_demonstrations_that_have_none(tmp_path: Path) -> None:
    row = {**GOOD, "demonstration": ["2 + 2 = 4 ", "\\boxed{4}, so there"]}
    (problem,) = read(named(tmp_path / "p.jsonl", lines(row), append_box=True))
    assert problem.demonstration == "2 + 2 = 4\n\\boxed{4}"
    assert problem.more_demonstrations == ("\\boxed{4}, so there",)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{not json", "line 2: not a JSON object"),
        ("[1, 2]", "line 2: not a JSON object"),
        ('{"id": "b", "question": "?"}', "line 2: answer: this key is required"),
        ('{"id": "b", "answer": "1"}', "line 2: question: this key is required"),
        ('{"question": "?", "messages": [], "answer": "1"}', "line 2: it has a question and mess"),
        ('{"id": "b", "question": "?", "answer": 4.5}', "line 2: answer"),
        ('{"id": "b", "question": "?", "answer": "4", "gold": "4"}', "line 2: gold: unknown key"),
        ('{"question": "?", "answer": "4", "demonstration": [1]}', "line 2: demonstration"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, bad: str, message: str) -> None:
    with pytest.raises(ProblemError, match=r"p\.jsonl, " + message) as caught:
        read(named(tmp_path / "p.jsonl", lines(GOOD) + bad + "\n"))
    assert "\n" not in str(caught.value)


def test_a_changed_a_missing_and_an_unpinned_file_are_refused(tmp_path: Path) -> None:
    source = named(tmp_path / "p.jsonl", lines(GOOD))
    changed = named(tmp_path / "p.jsonl", lines(GOOD, {**GOOD, "id": "b"}))
    with pytest.raises(ProblemError, match=rf"{changed.sha256}, not the one .* run `bridge pin`"):
        read(source)
    with pytest.raises(ProblemError, match=rf"does not say .* {changed.sha256}; run `bridge pin`"):
        read(OwnSource(path=source.path))
    with pytest.raises(ProblemError, match="no such file"):
        read(OwnSource(path=str(tmp_path / "none.jsonl"), sha256="0" * 64))


def test_empty_golds_duplicate_ids_and_leaks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="line 1: problem 'a' has an empty gold answer"):
        read(named(tmp_path / "e.jsonl", lines({**GOOD, "answer": " "})))
    other = {**GOOD, "question": "1 + 1 ?"}
    twice = read(named(tmp_path / "t.jsonl", lines(GOOD, other)))
    with pytest.raises(ProblemError, match="'a' occurs twice"):
        check_problems("train", twice)
    leaked = read(named(tmp_path / "l.jsonl", lines({**GOOD, "question": "2 +  2 ?"})))
    with pytest.raises(ProblemError, match="is also question 'a' of train"):
        check_disjoint("train", twice[:1], "test", leaked)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "either a path or a repo"),
        ({"path": "a.jsonl", "repo": "o/n"}, "either a path or a repo"),
        ({"path": "a.jsonl", "files": ["b.csv"]}, "belong to a repo"),
        ({"repo": "o/n", "files": ["b.csv"]}, "needs its revision"),
        ({"repo": "o/n", "revision": "a" * 40}, "needs its revision"),
        ({"repo": "o/n", "revision": "a" * 40, "files": ["b.csv", "b.parquet"]}, "all in the same"),
        ({"path": "a.txt"}, "have to end in"),
        ({"path": "a.parquet"}, "a local file has to end in"),
    ],
)
def test_a_source_is_a_file_or_pinned_files_of_the_hub(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        OwnSource.model_validate(settings)


def test_files_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in for its cache; rows come through the library that reads parquet and CSV too."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train-0.jsonl").write_text(
        lines({"q": "2 + 2 ?", "a": "4", "cot": ["x", "y"]})
    )
    (tmp_path / "data/train-1.jsonl").write_text(lines({"q": "1 + 1 ?", "a": "2", "cot": None}))
    asked: list[Any] = []
    monkeypatch.setattr(sources, "snapshot", lambda *a: asked.append(a) or tmp_path)
    source = OwnSource.model_validate(
        {
            "repo": "owner/sums",
            "revision": "a" * 40,
            "files": ["data/train-*.jsonl"],
            "columns": {"question": "q", "answer": "a", "demonstration": "cot"},
        }
    )
    first, second = read(source)
    assert asked == [("dataset", "owner/sums", "a" * 40, ("data/train-*.jsonl",))]
    assert first == Problem("sums/1", "2 + 2 ?", "4", 0, "x", ("y",))
    assert second == Problem("sums/2", "1 + 1 ?", "2", 0)

    def refuse(*_: object) -> None:
        raise HubError("dataset owner/sums is gated; log in.")

    monkeypatch.setattr(sources, "snapshot", refuse)
    with pytest.raises(ProblemError, match="is gated"):
        read(source.model_copy(update={"answer_after": "#"}))


def options(tmp_path: Path, **changes: Any) -> OwnOptions:
    rows = [{"question": f"{i} + 1 ?", "answer": i + 1} for i in range(6)]
    test = [{"question": f"{i} + 2 ?", "answer": i + 2} for i in range(2)]
    raw = {
        "train": named(tmp_path / "train.jsonl", lines(*rows)),
        "validation_size": 2,
        "benchmarks": {
            "near": named(tmp_path / "near.jsonl", lines(*test)),
            "far": named(tmp_path / "far.jsonl", lines({"question": "far ?", "answer": "1"})),
        },
        "instruction": "Box it.",
    }
    return OwnOptions.model_validate(raw | changes)


def test_the_family_serves_a_split_and_several_benchmarks(tmp_path: Path) -> None:
    made = options(tmp_path)
    dataset = FAMILY.dataset(made)
    assert (len(dataset.train), len(dataset.validation)) == (4, 2)
    assert not {p.id for p in dataset.train} & {p.id for p in dataset.validation}
    assert FAMILY.dataset(made).validation == dataset.validation, "one draw for all runs"
    assert FAMILY.benchmark_names(made) == ("near", "far") and FAMILY.benchmark_names() == ()
    assert FAMILY.benchmark("far", made)[0].question == "far ?\nBox it."
    own = options(tmp_path, validation=named(tmp_path / "v.jsonl", lines(GOOD)))
    assert [p.id for p in FAMILY.dataset(own).validation] == ["a"]
    assert len(FAMILY.dataset(own).train) == 6
    with pytest.raises(ProblemError, match="6 problems are too few to hold out 6"):
        FAMILY.dataset(options(tmp_path, validation_size=6))


def test_a_plan_reads_local_files(tmp_path: Path) -> None:
    made = options(tmp_path)
    FAMILY.check(made, "here")
    (tmp_path / "far.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"^here: .*far\.jsonl: no such file"):
        FAMILY.check(made, "here")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("5\\", "cannot read the gold answer"),
        ("$$", "cannot read the gold answer"),
        ("\\", "cannot read the gold answer"),
        ("2+2=4\n#### 4", "a solution that ends in '####'"),
        ("So it is $\\boxed{6}$.", "holds a box"),
        ("6\nbecause", "has several lines"),
    ],
)
def test_a_gold_that_no_grader_can_use_is_refused(answer: str, words: str) -> None:
    with pytest.raises(ProblemError, match=rf"train: problem 'b'.*{words}"):
        check_golds("train", [Problem("a", "?", "4", 0), Problem("b", "??", answer, 0)])
