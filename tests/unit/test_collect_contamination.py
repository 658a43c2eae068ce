"""Counts of shared texts, against sets small enough to count by hand."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from bridge.collect import contamination
from bridge.collect.contamination import contamination_rows, ngrams, normalised, renamed
from bridge.plan.grid import Plan, load_plan


def test_a_text_is_normalised_and_its_letters_are_numbered() -> None:
    assert normalised("Find  A\n now") == "find a now"
    assert renamed("x + y = 3 ; x ?") == renamed("b + a = 3 ; b ?") == "#0 + #1 = 3 ; #0 ?"
    assert renamed("x + y") != renamed("x + x")
    assert renamed("solve ax") == "solve ax", "letters inside a word are no names"


def test_ngrams_are_runs_of_words_and_signs() -> None:
    assert list(ngrams("a = 3+4", 3)) == [("a", "=", "3"), ("=", "3", "+"), ("3", "+", "4")]
    assert list(ngrams("A b", 8)) == [("a", "b")]
    assert len(list(ngrams(" ".join("abcdefghij")))) == 3


def _line(name: str, question: str, demonstration: str | None = None) -> dict[str, Any]:
    line = {"id": name, "question": question, "answer": "1"}
    return line | ({"demonstration": demonstration} if demonstration else {})


@pytest.fixture
def plan(root: Path, tmp_path: Path) -> Plan:
    """The smoke suite with a data set of a few lines, some of them in both sets."""
    words = [f"w{i}" for i in range(20)]
    sets = {
        "train": [
            _line("a", " ".join(words[:10]), "shown in the solution only , word by word , here"),
            _line("b", "Solve x + y = 7 for x now , please do"),
        ],
        "validation": [_line("v", "nothing in common at all with them here , really")],
        "test": [
            _line("t0", " ".join(words[:10]).upper()),  # The same text.
            _line("t1", "solve a + b = 7 for a now , please do"),  # A twin of b.
            _line("t2", " ".join([*words[:8], "x1", "x2", "x3", "x4"])),  # One of five 8-grams.
            _line("t3", "it is shown in the solution only , word by word"),
        ],
    }
    files: dict[str, Any] = {}
    for name, lines in sets.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        files[name] = {"path": str(path), "sha256": digest}
    files["benchmarks"] = {"own_test": files.pop("test")}
    plan = load_plan("smoke", root=root)
    run = plan.runs[0]
    changed = type(run)(**{**vars(run), "family": "own", "dataset_options": files})
    return Plan("small", plan.suite, (changed,))


def test_shared_texts_are_counted_per_pair_of_sets(plan: Plan) -> None:
    contamination._family_rows.cache_clear()
    rows = {(r["training_set"], r["benchmark"]): r for r in contamination_rows(plan)}
    assert list(rows) == [
        ("prompts", "own_test"),
        ("prompts", "validation"),
        ("demonstrations", "own_test"),
        ("demonstrations", "validation"),
    ]
    prompts = rows["prompts", "own_test"]
    assert (prompts["suite"], prompts["dataset"]) == ("small", plan.runs[0].dataset)
    assert (prompts["n_training"], prompts["n_questions"]) == (2, 4)
    assert (prompts["n_exact"], prompts["n_renamed"]) == (1, 2)
    # t0: all 3; t1: none, its letters differ; t2: 1 of 5; t3: none.
    assert prompts["n_overlapping"] == 2
    assert prompts["overlap"] == pytest.approx((1 + 0 + 1 / 5 + 0) / 4)
    demonstrations = rows["demonstrations", "own_test"]
    assert demonstrations["n_training"] == 1
    assert (demonstrations["n_exact"], demonstrations["n_renamed"]) == (1, 1)
    assert demonstrations["n_overlapping"] == 3, "the text of a solution counts"
    nothing = rows["prompts", "validation"]
    assert (nothing["n_exact"], nothing["n_overlapping"], nothing["overlap"]) == (0, 0, 0)


def test_the_worlds_of_the_matrix_share_no_question(root: Path) -> None:
    rows = contamination_rows(load_plan("matrix", root=root))
    assert {row["dataset"] for row in rows} == {"chains", "equations"}
    assert all(row["n_exact"] == row["n_renamed"] == 0 for row in rows)
