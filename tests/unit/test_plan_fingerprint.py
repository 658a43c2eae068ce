"""An edit changes the fingerprints of the jobs that depend on it, and of no others."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from pathlib import Path

import pytest

from bridge.plan.fingerprint import (
    closure,
    evaluate_fingerprint,
    fingerprint,
    prepare_fingerprint,
    show_fingerprint,
    train_fingerprint,
)
from bridge.plan.grid import Plan, load_plan

SHOWN = {"collect", "tables", "figures", "report"}
CODE = "\n\nADDED = 1\n"


@dataclass(frozen=True)
class Source:
    """A copy of the package that a test may edit."""

    plan: Plan
    original: Path
    fresh: Callable[[], Path]

    @cached_property
    def before(self) -> dict[str, str]:
        """Fingerprints of every job before any edit."""
        return self.jobs(self.original)

    def jobs(self, root: Path) -> dict[str, str]:
        """Fingerprints of every job of the suite, whatever its seed."""
        found = {name: show_fingerprint(name, root) for name in SHOWN}
        for name, model in self.plan.made_models.items():
            found[f"prepare/{name}"] = prepare_fingerprint(model, root)
        for spec in self.plan.runs:
            run = f"{spec.model}/{spec.dataset}/{spec.label}"
            found[f"train/{run}"] = train_fingerprint(spec, root)
            found[f"evaluate/{run}"] = evaluate_fingerprint(spec, root)
        return found

    def changed_by(self, file: str, edit: Callable[[str], str]) -> set[str]:
        """Jobs whose fingerprint an edit of one file changes."""
        root = self.fresh()
        path = root / file if file.startswith("results") else root / "bridge" / file
        before = path.read_text()
        path.write_text(edit(before))
        assert path.read_text() != before
        new = self.jobs(root)
        return {job for job in new if new[job] != self.before[job]}

    def every(self, kind: str) -> set[str]:
        """All jobs of a kind."""
        return {job for job in self.before if job.startswith(f"{kind}/")}


@pytest.fixture(scope="module")
def source(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("source")
    numbers = count()

    original = folder / "original"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(root / "bridge", original / "bridge", ignore=ignored)
    shutil.copytree(root / "results" / "published", original / "results" / "published")

    def fresh() -> Path:
        return shutil.copytree(original, folder / str(next(numbers)))

    plan = load_plan("matrix", root=root)
    first_seeds = tuple(s for s in plan.runs if s.seed == 0)
    return Source(replace(plan, runs=first_seeds), original, fresh)


def add_code(text: str) -> str:
    return text + CODE


def of(jobs: set[str], *endings: str) -> set[str]:
    return {job for job in jobs if job.endswith(endings)}


# -- what an edit reruns ---------------------------------------------------------------------------


def test_a_copy_elsewhere_has_the_same_fingerprints(source: Source) -> None:
    assert source.jobs(source.fresh()) == source.before


def test_a_method_reruns_the_training_of_that_method_only(source: Source) -> None:
    train = source.every("train")
    assert source.changed_by("methods/sft.py", add_code) == of(train, "/sft")
    # The ablation is a subclass of the method, so it depends on it too.
    assert source.changed_by("methods/bridge.py", add_code) == of(
        train, "/bridge", "/bridge_no_gain"
    )
    assert source.changed_by("methods/bridge_no_gain.py", add_code) == of(train, "/bridge_no_gain")


def test_an_objective_reruns_all_training_and_nothing_else(source: Source) -> None:
    assert source.changed_by("step/objectives/kl.py", add_code) == source.every("train")


def test_a_family_reruns_what_uses_its_questions(source: Source) -> None:
    changed = source.changed_by("tasks/equations.py", add_code)
    on_equations = {
        job for job in source.every("train") | source.every("evaluate") if "/equations/" in job
    }
    taught = {n for n, model in source.plan.made_models.items() if "equations" in model.families}
    assert changed == on_equations | {f"prepare/{name}" for name in taught}
    assert on_equations and taught


def test_a_package_s_model_is_made_again_after_an_edit_of_its_warm_up(
    source: Source, root: Path
) -> None:
    (model,) = load_plan("pocket_smoke", root=root).made_models.values()
    before = prepare_fingerprint(model, source.original)
    files = {"models/gguf.py", "step/trainer.py", "methods/sft.py", "tasks/arithmetic.py"}
    for file in files | {"methods/mixing.py", "tasks/chains.py"}:
        edited = source.fresh()
        path = edited / "bridge" / file
        path.write_text(add_code(path.read_text()))
        assert (prepare_fingerprint(model, edited) != before) == (file in files), file


def test_the_grader_reruns_training_and_evaluation(source: Source) -> None:
    """Its worker is started by path, which no import statement shows."""
    for file in ("grading/mathematics.py", "grading/worker.py", "grading/extraction.py"):
        changed = source.changed_by(file, add_code)
        assert changed == source.every("train") | source.every("evaluate"), file


def test_the_evaluation_reruns_no_training(source: Source) -> None:
    assert source.changed_by("evaluation/runner.py", add_code) == source.every("evaluate")


@pytest.mark.parametrize(
    ("file", "jobs"),
    [
        ("analysis/tables/accuracy.py", {"tables", "report"}),
        ("analysis/report/page.py", {"report"}),
        ("analysis/report/report.html.j2", {"report"}),
        ("results/published/published.csv", {"tables", "report"}),
        ("analysis/numbers/statistics.py", {"tables", "figures", "report"}),
        ("analysis/numbers/frames.py", {"tables", "figures", "report"}),
        ("collect/collecting.py", {"collect"}),
        ("collect/run_rows.py", {"collect"}),
        ("collect/status.py", set()),
        ("jobs/cli.py", set()),
    ],
)
def test_what_shows_results_reruns_no_model(source: Source, file: str, jobs: set[str]) -> None:
    edit = add_code if file.endswith(".py") else lambda text: text + "<!-- -->"
    assert source.changed_by(file, edit) == jobs


def test_a_curve_reruns_the_figures(source: Source) -> None:
    """And the report through its input files, whether or not it imports the code."""
    assert source.changed_by("analysis/figures/curves.py", add_code) - {"report"} == {"figures"}


def test_records_are_behind_everything_that_reads_or_writes_files(source: Source) -> None:
    assert source.changed_by("store/records.py", add_code) == set(source.before)


# -- what is not an edit ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text + "\n# a remark\n",
        lambda text: text.replace('"""', '"""Said otherwise. ', 1),
        lambda text: text.replace("\n\n\n", "\n\n\n\n\n"),
        lambda text: text + '\n"""A string that stands alone."""\n',
    ],
    ids=["comment", "docstring", "layout", "string"],
)
def test_comments_docstrings_and_layout_rerun_nothing(
    source: Source, edit: Callable[[str], str]
) -> None:
    assert source.changed_by("step/objectives/kl.py", edit) == set()


def test_a_number_in_a_function_is_an_edit(source: Source) -> None:
    changed = source.changed_by("store/seeds.py", lambda text: text.replace(">> 1", ">> 2"))
    assert changed >= source.every("train")


# -- the import graph ------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path) -> Callable[..., set[str]]:
    """The closure of `bridge.entry` in a package made of the given sources."""

    def build(**sources: str) -> set[str]:
        for name, text in {"__init__": "", **sources}.items():
            path = tmp_path / "bridge" / f"{name.replace('__', '/', 1)}.py"
            if name == "__init__":
                path = tmp_path / "bridge" / "__init__.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return closure(("bridge.entry",), root=tmp_path) - {"bridge", "bridge.entry"}

    return build


def test_libraries_beside_an_installed_package_do_not_count(
    package: Callable[..., set[str]], tmp_path: Path
) -> None:
    """Nor are they read: some nest deeper than ``ast`` can print."""
    library = tmp_path / "numpy.py"
    library.write_text("total = " + " + ".join(["1"] * 2000) + "\n")
    assert package(entry="import numpy, bridge.other", other="") == {"bridge.other"}


@pytest.mark.parametrize(
    "statement",
    [
        "import bridge.other",
        "import os, bridge.other as o",
        "from bridge import other",
        "from bridge.other import *",
        "from . import other",
        "from .other import thing",
        "def f():\n    from bridge.other import thing",
        "class A:\n    def f(self):\n        import bridge.other",
        "try:\n    import bridge.other\nexcept ImportError:\n    pass",
        "if TYPE_CHECKING:\n    pass\nelse:\n    import bridge.other",
    ],
)
def test_every_form_of_import_counts(package: Callable[..., set[str]], statement: str) -> None:
    assert package(entry=statement, other="thing = 1") == {"bridge.other"}


@pytest.mark.parametrize(
    "statement",
    [
        "if TYPE_CHECKING:\n    import bridge.other",
        "import typing\nif typing.TYPE_CHECKING:\n    from bridge.other import thing",
        "import importlib\nimportlib.import_module('bridge.other')",
        "# import bridge.other",
        "import bridges.other",
    ],
)
def test_imports_that_never_run_do_not_count(
    package: Callable[..., set[str]], statement: str
) -> None:
    assert package(entry=statement, other="thing = 1") == set()


def test_the_graph_is_followed_through_cycles_and_packages(
    package: Callable[..., set[str]],
) -> None:
    found = package(
        entry="from bridge.sub.deep import x",
        sub____init__="from bridge import beside",
        sub__deep="from .mate import x\nfrom .. import above",
        sub__mate="import bridge.entry",
        beside="",
        above="",
        unused="",
    )
    assert found == {
        *("bridge.sub", "bridge.sub.deep", "bridge.sub.mate", "bridge.beside", "bridge.above")
    }


def test_an_entry_without_a_source_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"module bridge\.nothing has no source file"):
        fingerprint(("bridge.nothing",), root=tmp_path)
