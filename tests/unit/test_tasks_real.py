"""Real data without the real data: stand-ins for the folder and for the hub."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from bridge.collect.contamination import _Seen
from bridge.grading import GraderPool
from bridge.machine import hub
from bridge.machine.hub import HubError
from bridge.plan.fingerprint import evaluate_fingerprint, train_fingerprint
from bridge.tasks.base import ProblemError
from bridge.tasks.mathematics import FAMILY, MathematicsOptions, _completion
from bridge.tasks.real import sources
from bridge.tasks.real.choices import in_fixed_order
from bridge.tasks.real.demonstrations import choose, token_limit
from bridge.tasks.real.family import to_problem
from bridge.tasks.real.hub_rows import READERS
from bridge.tasks.real.identity import identity
from bridge.tasks.real.prompts import BOXED, posed
from bridge.tasks.real.repairs import repaired
from bridge.tasks.real.sources import DataOptions, Entry, HubSource, Item, content_hash, load_set
from tests.fixtures.evaluation import make_spec

COMMIT = "a" * 40
ROWS = [
    {"id": "s/0", "problem": "What is $1+1$?", "answer": "2", "level": "Level 3"},
    {"id": "s/1", "problem": "How far?\u2028Say it.", "answer": "4.5e3", "level": "Level ?"},
    {"id": "s/2", "problem": "Lost", "answer": ""},
]

Install = Callable[..., Path]


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """No memory of another test, no data root of this machine."""
    sources._load.cache_clear()
    monkeypatch.delenv(sources.DATA_ROOT_VARIABLE, raising=False)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Write a set ``s`` into a data root and enter it into the manifest."""

    def made(**entry: Any) -> Path:
        path = tmp_path / "root" / "s" / "test.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
        path.write_bytes(data)
        fields: dict[str, Any] = {
            "file": "s/test.jsonl",
            "rows": len(ROWS),
            "sha256": hashlib.sha256(data).hexdigest(),
            "content_sha256": None,
            "licence": "MIT",
            "origin": "here",
            "hub": None,
        }
        monkeypatch.setattr(sources, "manifest", lambda: {"s": Entry(**fields | entry)})
        return tmp_path / "root"

    return made


def hub_entry(**over: Any) -> HubSource:
    fields = {
        "repo": "some/set",
        "revision": COMMIT,
        "files": ("test*",),
        "format": "json",
        "reader": "problem_answer",
    }
    return HubSource(**fields | over)


# -- a folder --------------------------------------------------------------------------------------


def test_a_folder_is_read_repaired_and_counted(install: Install) -> None:
    found = load_set("s", DataOptions(data_root=str(install())))
    assert [(i.id, i.answer, i.difficulty) for i in found.items] == [
        ("s/0", "2", 3),
        ("s/1", r"4.5 \times 10^{3}", 0),
    ]
    assert found.items[1].problem == "How far?\u2028Say it."
    assert (found.repaired, found.dropped) == ({"e-notation": 1}, ("s/2",))


def test_the_environment_names_the_folder(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(sources.DATA_ROOT_VARIABLE, str(install()))
    assert len(load_set("s", DataOptions()).items) == 2


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"file": "s/none.jsonl"}, "none.jsonl is missing; put the set there"),
        ({"sha256": "0" * 64}, "its SHA-256 is .* not 0000.*; fetch the file again"),
        ({"rows": 4}, "has 3 rows where 4 are expected; it is another version"),
        (
            {"content_sha256": "0" * 64},
            r"are not those that the manifest records \(2 usable rows\)",
        ),
    ],
)
def test_another_file_is_refused(install: Install, entry: dict[str, Any], message: str) -> None:
    root = install(**entry)
    with pytest.raises(ProblemError, match=message) as caught:
        load_set("s", DataOptions(data_root=str(root)))
    assert "\n" not in str(caught.value)


def test_the_content_hash_sees_golds_but_no_order_and_no_spacing() -> None:
    a = Item("1", r"Find $\dfrac{x}{2}$.", "3", 0, ())
    b = Item("2", "Other", "4", 0, ())
    same = Item("9", r"find  \frac{x}{2}", "3", 5, ("solution",))
    assert content_hash([a, b]) == content_hash([b, same])
    assert content_hash([a, b]) != content_hash([Item("1", a.problem, "5", 0, ()), b])
    assert identity("x+1") != identity("x-1")
    assert identity("x_1") != identity("x_2")


# -- the hub ---------------------------------------------------------------------------------------


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository as the hub's client leaves it on the disk, and a record of what was asked."""
    folder = tmp_path / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: str(folder))
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return folder


def test_the_hub_and_a_folder_give_the_same_set(install: Install, stand_in: Path) -> None:
    rows = [{"problem": r["problem"] + " ", "answer": r["answer"]} for r in reversed(ROWS)]
    (stand_in / "test.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    local = load_set("s", DataOptions(data_root=str(install())))
    install(content_sha256=content_hash(local.items), hub=hub_entry())
    remote = load_set("s", DataOptions())
    assert remote.items[0].id == "s/1"
    assert {i.identity: i.answer for i in remote.items} == {
        i.identity: i.answer for i in local.items
    }
    install(content_sha256="0" * 64, hub=hub_entry())
    sources._load.cache_clear()
    with pytest.raises(ProblemError, match="dataset some/set at aaaaaaaaaaaa are not those"):
        load_set("s", DataOptions())


def test_parquet_of_the_hub_and_a_missing_column(install: Install, stand_in: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"question": ["1+1?", "2+2?"], "answer": ["x #### 2", "y #### 1,004"]})
    pq.write_table(table, stand_in / "test-0.parquet")
    install(rows=2, hub=hub_entry(format="parquet", reader="gsm8k"))
    assert [i.answer for i in load_set("s", DataOptions()).items] == ["2", "1004"]
    install(rows=2, hub=hub_entry(format="parquet", reader="math500"))
    sources._load.cache_clear()
    with pytest.raises(ProblemError, match="has no column 'unique_id'"):
        load_set("s", DataOptions())


def test_a_damaged_file_of_the_hub(install: Install, stand_in: Path) -> None:
    (stand_in / "test.parquet").write_bytes(b"PAR1 no")
    install(hub=hub_entry(format="parquet"))
    with pytest.raises(ProblemError, match=r"cannot be read \(.*\); fetch it again"):
        load_set("s", DataOptions())


def test_what_is_not_pinned_or_not_there_is_refused(install: Install) -> None:
    install()
    with pytest.raises(ProblemError, match="s is not on the hub; set the option data_root"):
        load_set("s", DataOptions())
    install(hub=hub_entry(revision=None))
    with pytest.raises(
        ProblemError, match=r"no commit of dataset some/set is pinned.*'s@<commit>'"
    ):
        load_set("s", DataOptions())


def test_an_option_pins_a_commit(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def snapshot(kind: str, repo: str, revision: str, patterns: object) -> Path:
        asked.append((kind, repo, revision))
        raise HubError("stop here; it is enough.")

    monkeypatch.setattr(sources, "snapshot", snapshot)
    install(hub=hub_entry(revision=None))
    with pytest.raises(ProblemError, match="s: stop here"):
        load_set("s", DataOptions(revisions=(f"s@{'b' * 40}",)))
    assert asked == [("dataset", "some/set", "b" * 40)]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("GatedRepoError", "is gated; accept its terms at https://huggingface.co/datasets/o/n"),
        ("RepositoryNotFoundError", "is not on the hub, or your account may not see it"),
        ("RevisionNotFoundError", f"has no commit {COMMIT} any more"),
        ("LocalEntryNotFoundError", "the hub cannot be reached"),
        ("OSError", "the hub cannot be reached"),
    ],
)
def test_each_trouble_with_the_hub_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, error: str, message: str
) -> None:
    from huggingface_hub import errors

    response = Mock(headers={})

    def fail(*_: object, **__: object) -> str:
        kind = OSError if error == "OSError" else getattr(errors, error)
        if issubclass(kind, errors.HfHubHTTPError):
            raise kind("two\nlines", response=response)
        raise kind("two\nlines")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(HubError) as caught:
        hub.snapshot("dataset", "o/n", COMMIT, ["*.json"])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_snapshot_is_what_was_asked_for(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HubError, match="not a commit id of 40 hex digits"):
        hub.snapshot("model", "o/n", "main", ["*"])
    with pytest.raises(HubError, match="has no file like"):
        hub.snapshot("model", "o/n", COMMIT, ["*.safetensors"])
    (stand_in / "a.json").write_text("{}")
    assert hub.snapshot("model", "o/n", COMMIT, ["*.json"]) == stand_in
    with pytest.raises(HubError, match="the hub returned commit"):
        hub.snapshot("model", "o/n", "b" * 40, ["*.json"])


def test_the_offline_hub_is_an_error_of_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real client, with nothing in its cache and no network allowed."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(HubError, match="is not on this machine and the hub cannot be reached"):
        hub.snapshot("dataset", "o/n", COMMIT, ["*.json"])


# -- columns of the hub ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reader", "row", "problem", "answer"),
    [
        ("math500", {"unique_id": "u", "problem": "p", "answer": "a"}, "p", "a"),
        ("question_answer", {"question": "p", "answer": "27.0"}, "p", "27"),
        ("problem_answer", {"problem": "p", "answer": "025"}, "p", "25"),
        ("olympiadbench", {"id": 7, "question": "p", "final_answer": ["1", "2"]}, "p", "1,2"),
        ("math_boxed", {"problem": "p", "solution": r"\boxed{1} or \boxed{2}"}, "p", "2"),
        ("gsm8k", {"question": "p", "answer": "a\n#### 1,000"}, "p", "1000"),
        ("simplerl", {"question": "p", "gt_answer": "a", "level": 3}, "p", "a"),
        ("simplerl", {"question": "p", "gt_answer": None, "level": 3}, "p", ""),
        ("limr", {"prompt": "p", "answer": "a"}, "p", "a"),
        (
            "knights_knaves",
            {
                "quiz": "p",
                "names": ["Zoe", "Max"],
                "solution": [True, False],
                "cot_head": "h",
                "cot_repeat_steps": ["s"],
                "cot_foot": "f",
            },
            "p",
            "(1) Zoe is a knight\n(2) Max is a knave",
        ),
    ],
)
def test_columns(reader: str, row: dict[str, Any], problem: str, answer: str) -> None:
    read = READERS[reader](row, "s/0")
    assert (read["problem"], read["answer"]) == (problem, answer)
    assert isinstance(read["id"], str)


def test_gpqa_has_one_order_of_options_wherever_it_comes_from() -> None:
    row = {"Question": "Which? ", "Correct Answer": "right"}
    row |= {f"Incorrect Answer {k}": f"wrong {k}" for k in (1, 2, 3)}
    read = READERS["gpqa"](row, "g/0")
    shuffled = "Which?\n\nA. wrong 2\nB. right\nC. wrong 1\nD. wrong 3"
    assert in_fixed_order(read["problem"], read["answer"]) == in_fixed_order(shuffled, "B")
    text, letter = in_fixed_order(shuffled, "B")
    assert f"\n{letter}. right" in text
    for bad in (("Which?", "A"), (shuffled, "E")):
        with pytest.raises(ProblemError, match="not a question with options A to D"):
            in_fixed_order(*bad)


def test_deepmath_offers_three_traces() -> None:
    row = {"question": "p", "final_answer": "2"} | {f"r1_solution_{k}": f"t{k}" for k in (1, 2, 3)}
    assert READERS["deepmath"](row, "d/0")["solutions"] == ["t1", "t2", "t3"]


# -- repairs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gold", "used", "rules"),
    [
        ("1.70e4", r"1.70 \times 10^{4}", ("e-notation",)),
        ("-1./3", r"-\frac{1}{3}", ("python fraction",)),
        ("np.arcsin(10/13)", r"\arcsin(10/13)", ("numpy function",)),
        (r"\dfrac{1}{29,\!322,\!216}", r"\dfrac{1}{29322216}", ("thousands comma",)),
        ("{17}.", "17", ("stray end",)),
        ("$t(0,4]$", "(0,4]", ("outer dollars", "corrupt")),
        ("$1$, $2$", "$1$, $2$", ()),
        ("7", "7", ()),
        (r"\{1,2\}", r"\{1,2\}", ()),
        (r"1,\!2", r"1,\!2", ()),
        ("e", "e", ()),
    ],
)
def test_repairs(gold: str, used: str, rules: tuple[str, ...]) -> None:
    assert repaired(gold) == (used, rules)


# -- demonstrations --------------------------------------------------------------------------------


def item(name: str, problem: str, answer: str = "2") -> Item:
    return Item(name, problem, answer, 0, ())


def test_the_first_right_and_short_enough_completion_wins() -> None:
    items = [item("a", "P a."), item("b", "P b"), item("c", "P c"), item("d", "P d")]
    long = "so long " * 20 + r"\boxed{2}"
    offers = [
        ("traces", {identity("p a"): [r"\boxed{3}", r"first \boxed{2}", r"second \boxed{2}"]}),
        ("human", {identity("P b"): [long], identity("P c"): [r"\boxed{1}"]}),
        ("human", {identity("P a"): [r"human \boxed{2}"]}),
    ]
    with GraderPool() as pool:
        chosen, coverage = choose(items, offers, fits=token_limit(60, None), pool=pool)
    assert chosen == {"a": r"first \boxed{2}"}
    assert (coverage.prompts, coverage.demonstrated) == (4, 1)
    assert (coverage.unmatched, coverage.wrong, coverage.too_long) == (1, 1, 1)
    assert coverage.by_source == {"traces": 1}
    assert str(coverage).startswith("1 of 4 prompts have a demonstration (1 from traces); 1 unmat")


def test_tokens_are_counted_by_the_named_tokenizer(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    text = "nine words " * 4 + "end"
    # One more than the words: the end-of-turn token counts.
    assert token_limit(10, str(tmp_path))(text)
    assert not token_limit(9, str(tmp_path))(text)
    assert not token_limit(10, None)(text)
    assert token_limit(len(text) + 1, None)(text)
    with pytest.raises(ProblemError, match=r"holds no readable tokenizer\.json"):
        token_limit(9, str(tmp_path / "none"))


def test_the_traces_of_gpt_oss_end_in_a_box() -> None:
    trace = Item("math_gptoss/1", "p", "19", 0, ())
    text = _completion(trace, "So x = 19.</think> <answer>19</answer>")
    assert text == "So x = 19.\n\nThe final answer is $\\boxed{19}$."
    assert _completion(trace, "So x = 19. <answer>19</answer>") == ""
    assert _completion(item("math/test/1", "p"), r"so \boxed{2}") == r"so \boxed{2}"


def test_never_both_variants_of_olympiadbench() -> None:
    assert FAMILY.benchmark_names().count("olympiadbench") == 1
    assert "olympiadbench_674" not in FAMILY.benchmark_names()
    assert MathematicsOptions().olympiadbench == "olympiadbench"


def test_the_manifest_is_complete() -> None:
    entries = sources.manifest()
    on_no_hub = {"math_traces_gptoss", "mawps_asdiv_train", "svamp"}
    assert {k for k, e in entries.items() if e.hub is None} == on_no_hub
    unchecked = {"deepmath_103k"}  # no copy was at hand
    assert {k for k, e in entries.items() if e.content_sha256 is None} == unchecked
    for entry in entries.values():
        assert entry.licence and entry.origin
        assert entry.hub is None or entry.hub.reader in READERS
        assert entry.without is None or entry.without in entries


def test_the_instruction_is_no_contamination() -> None:
    problems = [to_problem(item("a", "How many?"), BOXED), to_problem(item("b", "Why so?"), BOXED)]
    assert [posed(p.question) for p in problems] == ["How many?", "Why so?"]
    texts = [posed(problems[0].question)]
    shared = _Seen(texts, texts).shared(problems)
    assert (shared["n_exact"], shared["n_overlapping"]) == (1, 1)


def test_the_manifest_reruns_real_families_only(root: Path, tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    copy = tmp_path / "copy"
    shutil.copytree(root / "bridge", copy / "bridge", ignore=ignored)
    changed = tmp_path / "changed"
    shutil.copytree(copy, changed)
    with (changed / "bridge" / "tasks" / "real" / "manifest.yaml").open("a") as stream:
        stream.write("# a word\n")
    specs = {"real": make_spec("mathematics"), "synthetic": make_spec("chains")}
    for job in (train_fingerprint, evaluate_fingerprint):
        same = {name: job(spec, copy) == job(spec, changed) for name, spec in specs.items()}
        assert same == {"real": False, "synthetic": True}
