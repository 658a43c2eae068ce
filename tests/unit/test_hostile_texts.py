"""The corpus of hostile texts and random ones through grader, records and tables."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.analysis.report.data import embed, readable
from bridge.analysis.tables.render import (
    LATEX_SPECIAL,
    Sheet,
    Value,
    html,
    latex,
    markdown,
    printable,
)
from bridge.collect.run_rows import storable
from bridge.grading import VERDICTS, GradeItem, GraderLimits, GraderPool
from bridge.grading.logic import choice_verdict, roles_verdict
from bridge.grading.points import points_verdict
from bridge.store.records import jsonl, read_jsonl
from tests.fixtures.hostile_texts import GOLD, KINDS, boxed, corpus
from tests.fixtures.workers import peak_resident_bytes

TEXTS = [hostile.text for hostile in corpus()]
SHOWN = [text[:3_000] for text in TEXTS]
"""As much of a text as a table or a page ever shows."""
# Small, because the worst texts cost all of it; honest answers need a few hundredths.
LIMITS = GraderLimits(time_s=0.2, memory_gib=0.5)
ROLES = "(1) Zoe is a knight (2) Max is a knave"


@pytest.fixture(scope="module")
def pool() -> Iterator[GraderPool]:
    with GraderPool(LIMITS) as pool:
        yield pool


def honest(number: int) -> GradeItem:
    """An answer that only a worker can judge, another one for each number; odd ones are wrong."""
    return GradeItem(boxed(rf"\frac{{{number + 2}}}{{{2 * number + 4 + number % 2}}}"), "0.5")


def test_the_corpus_is_large_and_of_every_kind() -> None:
    assert len(set(TEXTS)) == len(TEXTS) >= 300
    assert Counter(h.kind for h in corpus()).keys() == KINDS.keys()
    assert max(map(len, TEXTS)) >= 10_000_000


# -- grader --------------------------------------------------------------------------------


def test_the_grader_survives_the_corpus_and_every_neighbour_keeps_its_verdict(
    pool: GraderPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where the workers are started, so where a text would write

    def grade() -> None:
        for start in range(0, len(TEXTS), 16):
            numbers = range(start, min(start + 16, len(TEXTS)))
            items = [i for n in numbers for i in (GradeItem(TEXTS[n], GOLD), honest(n))]
            verdicts = [graded.verdict for graded in pool.grade(items)]
            for number, hostile, neighbour in zip(
                numbers, verdicts[::2], verdicts[1::2], strict=True
            ):
                assert hostile in VERDICTS - {"correct"}, TEXTS[number][:80]
                assert neighbour == ("wrong" if number % 2 else "correct"), TEXTS[number][:80]

    peak = peak_resident_bytes(pool, grade)
    assert 0 < peak < LIMITS.memory_gib * 2**30
    # Some of the texts must have reached the limits, or these were not tested.
    assert pool.counts["timeout"] >= 15
    assert list(tmp_path.iterdir()) == []


def test_choices_roles_and_points_survive_the_corpus() -> None:
    # These are judged in this process, where no limit but the length cap protects it.
    for text in TEXTS:
        for answer in (text[: LIMITS.answer_chars], text[-LIMITS.answer_chars :]):
            assert choice_verdict("J", answer) in ("wrong", "unparsed")
            assert roles_verdict(ROLES, answer) in ("wrong", "unparsed")
            assert points_verdict("make 24 : ( 1 + 3 ) * 6", answer) in ("wrong", "unparsed")


PIECES = [r"\frac", r"\sqrt", r"\text", r"\boxed", r"\left(", r"\right)", r"\{", r"\}", r"\\", "{"]
PIECES += ["}", "^", "_", "$", "&", "(", ")", "[", "]", "|", "=", "<", ",", ".", "+", "-", "/", "!"]
PIECES += [
    "0",
    "7",
    "12",
    "x",
    "y",
    "e",
    r"\pi",
    r"\in",
    r"\cup",
    r"\mod",
    r"\%",
    " ",
    "\n",
    "\x00",
]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from(PIECES) | st.text(max_size=2), max_size=14).map("".join),
    st.integers(1_000, 100_000),
)
def test_any_answer_gets_a_verdict_and_leaves_its_neighbours_theirs(
    pool: GraderPool, answer: str, number: int
) -> None:
    item = GradeItem(boxed(answer), GOLD)
    first, near = pool.grade([item, honest(number)])
    assert first.verdict in VERDICTS - {"correct"}
    assert near.verdict == ("wrong" if number % 2 else "correct")
    assert pool.grade([item]) == [first]


# -- records -------------------------------------------------------------------------------------


def test_records_give_every_text_back(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(jsonl([{"text": text} for text in TEXTS]), encoding="utf-8")
    assert [row["text"] for row in read_jsonl(path)] == TEXTS


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=())))
def test_any_text_is_storable_and_embeddable(text: str) -> None:
    assert json.loads(jsonl([{"text": text}])) == {"text": text}
    assert len(storable(text).encode().decode()) == len(text)
    page = embed([readable(text)])
    assert not set("<>&\u2028\u2029\x00\u202e") & set(page)
    assert json.loads(page) == [readable(text)]


def test_the_tidy_table_holds_the_corpus(tmp_path: Path) -> None:
    texts = [storable(text) for text in SHOWN]
    pd.DataFrame({"text": texts}).to_parquet(tmp_path / "answers.parquet")
    assert pd.read_parquet(tmp_path / "answers.parquet")["text"].tolist() == texts


# -- tables --------------------------------------------------------------------------------


class Tags(HTMLParser):
    """Counts tags and gathers text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        assert not [name for name, _ in attrs if name not in ("scope", "colspan")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def sheet(texts: list[str]) -> Sheet:
    head = [Value("name"), Value("value")]
    return Sheet("title", head, [[Value(text), Value("1", text)] for text in texts])


def test_no_text_makes_an_element_of_an_html_table() -> None:
    found = Tags(html([sheet(SHOWN)]))
    expected = Tags(html([sheet(["x"] * len(SHOWN))]))
    assert found.tags == expected.tags
    shown = {text.strip() for text in found.texts}
    assert {printable(text).strip() for text in SHOWN} <= shown


def test_no_text_makes_a_cell_or_a_tag_of_a_markdown_table() -> None:
    for text in SHOWN:
        lines = markdown([sheet([text])]).splitlines()
        assert len(lines) == 5
        bare = re.sub(r"\\[\\`*_\[\]<>|~]", "", lines[-1])
        assert bare.count("|") == 3
        assert not set("<>`*_[]~\\") & set(bare)
        assert "&" not in bare.replace("&amp;", "")


def test_no_text_makes_a_command_of_a_latex_table() -> None:
    unescape = {written: letter for letter, written in LATEX_SPECIAL.items()}
    known = re.compile("|".join(map(re.escape, sorted(unescape, key=len, reverse=True))))
    for text in SHOWN:
        row = next(line for line in latex([sheet([text])]).splitlines() if "scriptsize" in line)
        cell = row.partition(r" & 1 {\scriptsize ")[0]
        bare = known.sub("", cell)
        assert not set("\\{}$&#^_%~<>") & set(bare), text[:80]
