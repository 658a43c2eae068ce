"""Two files of ``lm_eval --log_samples``: paired by question, whoever wrote them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import nct, t, ttest_rel

from bridge.analysis.numbers.frames import TidyError
from bridge.analysis.report.compare_samples import compare_samples
from bridge.jobs import cli


def sample(number: int, value: Any, **changes: Any) -> dict[str, Any]:
    row = {
        "doc_id": number,
        "doc": {"question": f"question {number}"},
        "arguments": [["prompt", {"until": []}]],
        "filter": "none",
        "metrics": ["exact_match"],
        "doc_hash": f"hash {number}",
        "exact_match": value,
    }
    return {k: v for k, v in (row | changes).items() if v is not ...}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


@pytest.fixture
def scores() -> tuple[list[int], list[int]]:
    drawn = np.random.default_rng(3)
    return drawn.integers(0, 2, 60).tolist(), (drawn.random(60) < 0.7).astype(int).tolist()


def both(tmp_path: Path, left: list[Any], right: list[Any]) -> tuple[Path, Path]:
    return write(tmp_path / "a.jsonl", left), write(tmp_path / "b.jsonl", right)


def test_the_difference_is_paired_by_question(
    tmp_path: Path, scores: tuple[list[int], list[int]]
) -> None:
    """In whatever order the questions stand; the interval is that of the paired t test."""
    a, b = (np.array(side, float) for side in scores)
    left = [sample(i, float(v)) for i, v in enumerate(a)]
    right = [sample(i, bool(v)) for i, v in enumerate(b)][::-1]
    (found,) = compare_samples(*both(tmp_path, left, right))
    assert (found.left, found.right) == (a.mean(), b.mean())
    assert found.difference == pytest.approx((b - a).mean())
    reference = ttest_rel(b, a)
    interval = reference.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-6)
    assert found.p_value == pytest.approx(reference.pvalue, rel=1e-6)
    error = (b - a).std(ddof=1) / np.sqrt(60)
    power = nct.sf(t.ppf(0.975, 59), 59, found.detectable / error)
    assert power == pytest.approx(0.8, abs=1e-6)
    assert (found.right_only, found.left_only) == (int((b > a).sum()), int((b < a).sum()))


def test_filters_and_metrics_are_compared_each_by_itself(tmp_path: Path) -> None:
    def rows(strict: float, flexible: float) -> list[Any]:
        return [
            sample(
                i,
                value,
                filter=kind,
                metrics=["exact_match", "bleu", "pair"],
                bleu=31.5,
                pair=[1, 2],
            )
            for kind, value in (("strict", strict), ("flexible", flexible))
            for i in range(30)
        ]

    found = compare_samples(*both(tmp_path, rows(0, 1), rows(1, 0.5)))
    assert [(f.metric, f.filter, f.difference) for f in found] == [
        ("exact_match", "strict", 1.0),
        ("exact_match", "flexible", -0.5),
    ]


def test_files_of_older_versions_and_of_parts_of_a_task(tmp_path: Path) -> None:
    """Without hashes and names of metrics, and with questions that one side lacks."""
    old = {"doc_hash": ..., "metrics": ..., "filter": ...}
    left = [sample(i, 1, **old) for i in range(40)]
    right = [sample(i, 0, **old) for i in range(15, 60)]
    (found,) = compare_samples(*both(tmp_path, left, right))
    assert (found.metric, found.n_questions, found.difference) == ("exact_match", 25, -1.0)


def test_a_question_that_a_task_holds_twice_is_two_questions(tmp_path: Path) -> None:
    rows = [sample(i, i % 2, doc_hash=f"hash {i // 2}") for i in range(40)]
    (found,) = compare_samples(*both(tmp_path, rows, rows))
    assert found.n_questions == 40 and found.difference == 0


GOOD = [sample(i, 1) for i in range(30)]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "holds no samples"),
        (["{"], r"b\.jsonl, line 1: not a JSON object"),
        (["[1]"], "line 1: not a JSON object"),
        ([*GOOD, {"a": 1}], "line 31: no doc_id"),
        ([sample(0, float("nan"))], "line 1: exact_match is nan"),
        ([sample(0, "yes")], r"no metric with values from 0 to 1 per question \(none\)"),
        ([sample(0, 17.0)], r"no metric with values .* \(exact_match\)"),
        ([sample(i, 1) for i in range(100, 130)], "only 0 shared questions"),
        (GOOD[:19], "only 19 shared questions"),
        ([sample(i, 1, metrics=["acc"], acc=1) for i in range(30)], "exact_match and acc"),
        ([*GOOD, sample(30, 1, metrics=["acc"], acc=1)], "some questions have no acc"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(
    tmp_path: Path, rows: list[Any], said: str
) -> None:
    with pytest.raises(TidyError, match=said) as caught:
        compare_samples(*both(tmp_path, GOOD, rows))
    assert "\n" not in str(caught.value)


def test_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It needs neither a suite nor this repository's folder."""
    monkeypatch.chdir(tmp_path)
    both(
        tmp_path,
        [sample(i, int(i < 10)) for i in range(40)],
        [sample(i, int(i < 20)) for i in range(40)],
    )
    cli.main(["compare", "--samples", "a.jsonl", "b.jsonl"])
    shown = capsys.readouterr().out
    assert "exact_match: A 25.0, B 50.0\n  B - A: +25.0 [11.0, 39.0]" in shown
    assert "B better on 10 questions, A on 0" in shown
    cli.main(["compare", "--samples", "a.jsonl", "b.jsonl", "--json"])
    assert json.loads(capsys.readouterr().out)[0]["difference"] == 0.25
    for arguments in (
        ["--samples", "a.jsonl", "none.jsonl"],
        ["sft"],
        ["--samples", ".", "b.jsonl"],
    ):
        with pytest.raises(SystemExit):
            cli.main(["compare", *arguments])
        assert capsys.readouterr().err.count("\n") == 1
