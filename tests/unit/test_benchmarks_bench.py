"""`make bench`: what it keeps, what it compares, what it writes into the page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks import passes
from benchmarks import processor as machines
from benchmarks.performance_page import PAGE, write_page
from bridge.store.records import read_json, write_json


def part(**ratios: float) -> dict[str, Any]:
    return {"ratios": ratios, "missing": [], "numbers": {"x": 1}, "commit": "c", "load": 0.1}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A pass in a folder of its own whose parts take no time; the parts that were measured."""
    asked: list[str] = []
    monkeypatch.setattr(passes, "commit", lambda: "now")

    def measured(name: str, *, quick: bool, base: Path | None) -> dict[str, Any] | None:
        asked.append(name)
        return (
            None if name == "sizes" else part(speed=float(len(asked))) | {"commit": passes.commit()}
        )

    monkeypatch.setattr(passes, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(passes, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(passes, "measured", measured)
    monkeypatch.setattr(passes, "committed", lambda path: {})
    return asked


def results(folder: Path) -> dict[str, Any]:
    (path,) = (folder / "results").iterdir()
    found: dict[str, Any] = read_json(path)
    return found


def test_the_page_is_what_the_files_give(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    shutil.copy(PAGE, page)
    write_page(page)
    assert page.read_text() == PAGE.read_text(), "run `python -m benchmarks --pages`"


def test_a_stopped_pass_goes_on(bench: list[str], tmp_path: Path) -> None:
    assert passes.run_pass(["floors", "sizes", "grpo"], quick=False) == ["sizes"]
    assert passes.run_pass(["floors", "sizes", "grpo"], quick=False) == ["sizes"]
    assert bench == ["floors", "sizes", "grpo", "sizes"]
    assert set(results(tmp_path)["parts"]) == {"floors", "grpo"}


def test_an_ended_pass_begins_anew(bench: list[str], tmp_path: Path) -> None:
    for _ in range(2):
        assert passes.run_pass(["floors"], quick=False) == []
    assert bench == ["floors", "floors"]
    assert results(tmp_path)["parts"]["floors"]["ratios"] == {"speed": 2.0}


@pytest.mark.parametrize(("first", "second"), [("now", "later"), ("now+", "now+")])
def test_numbers_of_other_code_are_measured_again(
    first: str, second: str, bench: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "commit", lambda: first)
    passes.run_pass(["floors", "sizes"], quick=False)
    monkeypatch.setattr(passes, "commit", lambda: second)
    passes.run_pass(["floors"], quick=False)
    assert bench == ["floors", "sizes", "floors"]


def test_a_smoke_test_keeps_nothing(bench: list[str], tmp_path: Path) -> None:
    assert passes.run_pass(["floors"], quick=True) == []
    assert list(tmp_path.iterdir()) == []


def test_parts_of_earlier_passes_stay(bench: list[str], tmp_path: Path) -> None:
    passes.run_pass(["floors"], quick=False)
    passes.run_pass(["grpo"], quick=False)
    assert set(results(tmp_path)["parts"]) == {"floors", "grpo"}


def test_what_fell_is_said() -> None:
    before = {"parts": {"grpo": part(kept=2.0, fell=2.0, gone=2.0, grew=2.0)}}
    now = {"parts": {"grpo": part(kept=1.61, fell=1.6, grew=3.0)}}
    assert passes.compared(before, now, "k") == [
        "bench: grpo fell fell by 20 %: 2.0 to 1.6.",
        "bench: grpo gone was 2.0; it was not measured now.",
    ]
    assert "no ratio fell" in passes.compared(before, before, "k")[0]
    assert len(passes.compared(before, {"parts": {}}, "k")) == 4


def test_an_unknown_kind_has_nothing_to_compare_with() -> None:
    assert passes.compared({}, {"parts": {}}, "riscv64-4") == [
        "bench: nothing to compare with: no numbers of kind riscv64-4 are committed."
    ]


@pytest.mark.parametrize(
    ("cpuinfo", "features"),
    [
        (None, []),
        ("", []),
        ("model name : A\nflags : fpu avx2 avx512f\n", ["avx2", "avx512f"]),
        ("Features : fp asimd sve\n", ["asimd", "sve"]),
        ("isa : rv64imafdc\n", []),
    ],
)
def test_any_processor_has_a_kind(
    cpuinfo: str | None, features: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        path.write_text(cpuinfo)
    monkeypatch.setattr(machines, "CPUINFO", path)
    monkeypatch.setattr(machines, "n_cores", lambda: 3)
    facts = machines.processor()
    assert facts["features"] == features
    kind = machines.kind_of(facts)
    assert kind == "-".join([facts["architecture"], *features, "3"])


def test_committed_files_are_named_after_their_processor() -> None:
    for path in passes.RESULTS.glob("*.json"):
        record = json.loads(path.read_text())
        assert path.stem == machines.kind_of(record["processor"])
        assert set(record["parts"]) <= set(passes.PARTS)


@pytest.mark.slow
def test_a_part_that_fails_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(passes.PARTS, "broken", passes.Part("no_such_module"))
    assert passes.run_pass(["broken"], quick=True) == ["broken"]
    said = capsys.readouterr().out
    assert "No module named benchmarks.no_such_module" in said
    assert said.strip().endswith("bench: broken ended with 1.")


def test_a_record_is_what_it_was_plus_what_is_new() -> None:
    before = {"parts": {"grpo": part(a=1.0)}, "processor": {"cores": 1}}
    record = passes.merged(before, {"cores": 2}, {"sizes": part(b=1.0)})
    assert set(record["parts"]) == {"grpo", "sizes"}
    assert record["processor"] == {"cores": 2}


def test_outside_git_the_file_counts_as_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_git(*words: str) -> str:
        raise FileNotFoundError("git")

    monkeypatch.setattr(passes, "_git", no_git)
    path = passes.RESULTS / "made-up.json"
    assert passes.committed(path) == {}
    monkeypatch.setattr(passes, "ROOT", tmp_path)
    write_json(tmp_path / "made-up.json", {"parts": {}})
    assert passes.committed(tmp_path / "made-up.json") == {"parts": {}}
