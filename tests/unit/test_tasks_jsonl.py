"""The user's own problem files: read, checked, refused by file and line."""

import hashlib
import json
from pathlib import Path

import pytest

from bridge.tasks.base import ProblemError, check_disjoint, check_problems
from bridge.tasks.jsonl import FAMILY, JsonlFile, JsonlOptions, read_problems

GOOD = {"id": "a", "question": "2 + 2 ?", "answer": "4"}


def named(path: Path, text: str) -> JsonlFile:
    path.write_bytes(text.encode())
    return JsonlFile(path=str(path), sha256=hashlib.sha256(text.encode()).hexdigest())


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_reads_problems_with_and_without_the_optional_fields(tmp_path: Path) -> None:
    full = {
        **GOOD,
        "id": "b",
        "question": "1 + 3 ?",
        "difficulty": 3,
        "demonstration": "4, so \\boxed{4}",
    }
    first, second = read_problems(named(tmp_path / "p.jsonl", lines(GOOD, full)))
    assert (first.difficulty, first.demonstration) == (0, None)
    assert (second.difficulty, second.demonstration) == (3, "4, so \\boxed{4}")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{not json", "line 2: not a JSON object"),
        ("[1, 2]", "line 2: line:"),
        ('{"id": "b", "question": "?"}', "line 2: answer: Field required"),
        ('{"id": "b", "question": "?", "answer": 4}', "line 2: answer: Input should be a valid"),
        ('{"id": "b", "question": "?", "answer": "4", "gold": "4"}', "line 2: gold: Extra"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, bad: str, message: str) -> None:
    with pytest.raises(ProblemError, match=r"p\.jsonl, " + message):
        read_problems(named(tmp_path / "p.jsonl", lines(GOOD) + bad + "\n"))


def test_a_changed_file_is_refused_with_its_new_hash(tmp_path: Path) -> None:
    file = named(tmp_path / "p.jsonl", lines(GOOD))
    changed = named(tmp_path / "p.jsonl", lines(GOOD, {**GOOD, "id": "b"}))
    with pytest.raises(ProblemError, match=changed.sha256):
        read_problems(file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="no such file"):
        read_problems(JsonlFile(path=str(tmp_path / "none.jsonl"), sha256="0" * 64))


def test_empty_golds_duplicate_ids_and_leaks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="line 1: problem 'a' has an empty gold answer"):
        read_problems(named(tmp_path / "e.jsonl", lines({**GOOD, "answer": " "})))
    other = {**GOOD, "question": "1 + 1 ?"}
    twice = read_problems(named(tmp_path / "t.jsonl", lines(GOOD, other)))
    with pytest.raises(ProblemError, match="'a' occurs twice"):
        check_problems("train", twice)
    leaked = read_problems(named(tmp_path / "l.jsonl", lines({**GOOD, "question": "2 +  2 ?"})))
    with pytest.raises(ProblemError, match="is also question 'a' of train"):
        check_disjoint("train", twice[:1], "test", leaked)


def test_the_family_serves_its_three_files(tmp_path: Path) -> None:
    options = JsonlOptions(
        train=named(tmp_path / "a.jsonl", lines(GOOD)),
        validation=named(tmp_path / "b.jsonl", lines({**GOOD, "question": "1 + 1 ?"})),
        test=named(tmp_path / "c.jsonl", lines({**GOOD, "question": "3 + 3 ?"})),
    )
    dataset = FAMILY.dataset(options)
    assert len(dataset.train) == len(dataset.validation) == 1
    assert FAMILY.benchmark("jsonl_test", options)[0].question == "3 + 3 ?"
