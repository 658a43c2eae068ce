"""The committed copy of a suite: whole, small, and enough to rebuild its tables byte for byte."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bridge.analysis.numbers.frames import TidyError, load_tidy
from bridge.analysis.report.building import build_tables
from bridge.collect import caching
from bridge.collect.collecting import collect_suite
from bridge.plan.grid import load_plan
from bridge.store.records import RecordError, file_hash, read_json, write_json
from bridge.store.schema import ConfigError
from tests.fixtures.run_folders import write_suite

COMMITTED = sorted(Path(__file__).parents[2].glob("results/cached/*/manifest.json"))
# Fails on any import of what the small environment of `make figures` does not hold.
WITHOUT_TORCH = """
import sys
from pathlib import Path
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "peft", "lm_eval", "math_verify"):
            raise ImportError(f"{name} is not installed")
sys.meta_path.insert(0, Block())
from bridge.analysis.report.building import build_tables
build_tables(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.fixture
def results(root: Path, tmp_path: Path) -> Path:
    """A finished suite with its tidy tables and its tables."""
    plan = load_plan("smoke", root=root)
    plan = replace(plan, runs=tuple(s for s in plan.runs if s.label in ("base", "sft", "bridge")))
    results = tmp_path / "results"
    write_suite(plan, results)
    tidy = results / "smoke" / "tidy"
    collect_suite(plan, results=results, folder=tidy)
    build_tables(tidy, results / "smoke" / "tables")
    return results


def _hashes(folder: Path) -> dict[str, str]:
    return {path.name: file_hash(path) for path in sorted(folder.iterdir())}


def test_a_copy_rebuilds_the_tables_of_the_run_byte_for_byte(results: Path, tmp_path: Path) -> None:
    copy = results / "cached" / "smoke"
    size = caching.cache_suite(results, "smoke")
    assert size == sum(path.stat().st_size for path in copy.glob("*.parquet"))
    assert {path.stem for path in copy.glob("*.parquet")} == {
        "runs",
        "scores",
        "dynamics",
        "costs",
        "answers",
        "contamination",
    }
    build_tables(copy, tmp_path / "tables")
    shown = read_json(copy / "manifest.json")["shown"]
    assert "main.html" in shown and "contamination.tex" in shown
    # Claims change when claims.yaml does: the same now, but no promise for later.
    assert not any(name.startswith("claims") for name in shown)
    made = _hashes(tmp_path / "tables")
    assert made == _hashes(results / "smoke" / "tables") and made | shown == made


def test_a_changed_or_missing_table_is_not_committed(results: Path) -> None:
    path = results / "smoke" / "tidy" / "costs.parquet"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(RecordError, match=r"costs\.parquet is not what was collected"):
        caching.cache_suite(results, "smoke")
    with pytest.raises(TidyError, match=r"costs\.parquet is not the file that .*manifest\.json"):
        load_tidy(path.parent)
    path.unlink()
    with pytest.raises(RecordError, match=r"costs\.parquet is not what was collected"):
        caching.cache_suite(results, "smoke")
    assert not (results / "cached").exists()


def test_a_copy_deletes_nothing(results: Path) -> None:
    """Not of a study's tables beside it, and no run whatever the suite is called."""
    folder = results / "cached" / "smoke"
    folder.mkdir(parents=True)
    (folder / "signs.csv").write_text("of a study\n")
    (folder / "costs.parquet").write_bytes(b"of an older copy")
    caching.cache_suite(results, "smoke")
    caching.cache_suite(results, "smoke")
    assert (folder / "signs.csv").read_text() == "of a study\n"
    assert file_hash(folder / "costs.parquet") == file_hash(results / "smoke/tidy/costs.parquet")
    assert not list(folder.glob(".*"))
    (folder / "gone.parquet").write_bytes(b"")
    with pytest.raises(RecordError, match="holds gone, which this copy has not; delete"):
        caching.cache_suite(results, "smoke")
    assert (folder / "gone.parquet").exists()


@pytest.mark.parametrize("suite", ["../smoke", "/etc", "", "cached", "smoke/runs", ".."])
def test_a_suite_s_name_cannot_lead_elsewhere(results: Path, suite: str) -> None:
    before = sorted(results.rglob("*"))
    for name in (suite, str(results / "smoke")):
        with pytest.raises(ConfigError):
            caching.cache_suite(results, name)
    assert sorted(results.rglob("*")) == before


@pytest.mark.parametrize("tables", [None, [], {"../smoke": "0" * 64}, {"runs": 1}])
def test_a_manifest_that_lists_no_tables_is_refused(results: Path, tables: object) -> None:
    path = results / "smoke" / "tidy" / "manifest.json"
    write_json(path, read_json(path) | {"tables": tables})
    with pytest.raises(RecordError, match=r"manifest\.json.*run bridge collect again"):
        caching.cache_suite(results, "smoke")


def test_a_suite_that_is_too_large_is_refused(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching, "LIMIT_BYTES", 1000)
    with pytest.raises(
        RecordError, match=r"tidy holds 0\.\d MB, more than the 0 MB.*--without-answ"
    ):
        caching.cache_suite(results, "smoke")


def test_a_copy_without_answers_proves_what_is_not_made_of_them(
    results: Path, tmp_path: Path
) -> None:
    caching.cache_suite(results, "smoke", with_answers=False)
    copy = results / "cached" / "smoke"
    assert not (copy / "answers.parquet").exists()
    build_tables(copy, tmp_path / "tables")
    shown = read_json(copy / "manifest.json")["shown"]
    made = _hashes(tmp_path / "tables")
    assert "main.html" in shown and made | shown == made
    assert not any(name.startswith("clusters") for name in {*shown, *made})


@pytest.mark.parametrize("manifest", COMMITTED, ids=lambda path: path.parent.name)
def test_committed_tables_are_whole_and_small(manifest: Path) -> None:
    found = read_json(manifest)
    files = sorted(manifest.parent.glob("*.parquet"))
    assert {path.stem for path in files} == set(found["tables"])
    assert all(file_hash(path) == found["tables"][path.stem] for path in files)
    assert sum(path.stat().st_size for path in files) < caching.LIMIT_BYTES
    assert found["commits"] and set(found["runs"])


@pytest.mark.parametrize("manifest", COMMITTED, ids=lambda path: path.parent.name)
def test_committed_tables_rebuild_those_of_the_run_without_torch(
    manifest: Path, tmp_path: Path, root: Path
) -> None:
    shown = read_json(manifest).get("shown")
    if shown is None:
        pytest.skip("committed before the hashes of the run's tables were kept: run bridge cache")
    command = [sys.executable, "-c", WITHOUT_TORCH, str(manifest.parent), str(tmp_path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = _hashes(tmp_path)
    assert {name: made.get(name) for name in shown} == shown


def test_planning_the_default_suite_needs_no_grader(root: Path) -> None:
    """The small environment of `make figures` plans too, and has no math-verify."""
    code = (
        "import sys; from pathlib import Path; from bridge.plan.grid import load_plan;"
        "load_plan('matrix', root=Path());"
        "assert not [m for m in sys.modules if m.startswith('bridge.grading')]"
    )
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
