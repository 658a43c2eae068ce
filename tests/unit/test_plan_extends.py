"""A suite over another: what it inherits, what it replaces, and whose mistake it is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge.plan.grid import load_plan
from bridge.store.schema import ConfigError


@pytest.fixture
def write(tmp_path: Path, root: Path) -> Callable[[str, str], Path]:
    """Write suites into a folder that has a ``smoke`` already."""
    (tmp_path / "suites").mkdir()
    shutil.copy(root / "suites" / "smoke.yaml", tmp_path / "suites")

    def write(name: str, text: str) -> Path:
        path = tmp_path / "suites" / f"{name}.yaml"
        path.write_text(text)
        return path

    return write


def test_a_suite_that_extends_another_says_what_differs(
    write: Callable[[str, str], Path], tmp_path: Path, root: Path
) -> None:
    write(
        "mine",
        "title: Mine\nextends: smoke\ntraining: {temperature: 0.5}\n"
        "methods: {sft: {options: {steps: 4}}}\n",
    )
    plan, mine = load_plan("smoke", root=root), load_plan("mine", root=tmp_path)
    assert mine.suite.title == "Mine"
    for theirs, ours in zip(plan.runs, mine.runs, strict=True):
        assert ours.training == theirs.training.model_copy(update={"temperature": 0.5})
        same = (theirs.label, theirs.seed, theirs.evaluation, theirs.model_config)
        assert (ours.label, ours.seed, ours.evaluation, ours.model_config) == same
        steps = 4 if ours.label == "sft" else theirs.method_options.get("steps")
        assert ours.method_options.get("steps") == steps


def test_lists_are_replaced_and_a_study_extends_a_suite(
    write: Callable[[str, str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "studies" / "mine" / "suites"
    folder.mkdir(parents=True)
    block = "{models: [tiny-qwen], datasets: [chains], methods: [sft], seeds: [5]}"
    (folder / "study.yaml").write_text(f"title: Mine\nextends: smoke\ngrid: [{block}]\n")
    (run,) = load_plan("study", root=tmp_path).runs
    assert (run.label, run.seed) == ("sft", 5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title: B\nextends: mine", "extends: mine extends a suite itself, and only one level"),
        ("title: B\nextends: second", "extends: second extends a suite itself, and only one level"),
        ("title: B\nextends: nobody", "suites/nobody.yaml: no such file; files there: "),
        ("title: B\nextends: suites/smoke.yaml", "extends: name one other suite"),
        ("title: B\nextends: [smoke]", "extends: name one other suite"),
        ("extends: smoke", "title: this key is required; a title is not inherited"),
        ("title: B\nextends: smoke\ntrainin: {}", "trainin: unknown key"),
    ],
)
def test_chains_circles_and_copies_are_refused(
    write: Callable[[str, str], Path], tmp_path: Path, text: str, said: str
) -> None:
    write("mine", "title: Mine\nextends: second\n")
    write("second", text)
    with pytest.raises(ConfigError) as caught:
        load_plan("second", root=tmp_path)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_mistake_is_blamed_on_the_file_that_holds_it(
    write: Callable[[str, str], Path], tmp_path: Path
) -> None:
    write("mine", "title: Mine\nextends: smoke\n")
    path = tmp_path / "suites" / "smoke.yaml"
    write("smoke", path.read_text().replace("lr_sft", "lr_stf"))
    with pytest.raises(ConfigError, match=r"smoke\.yaml: training\.lr_stf: unknown key"):
        load_plan("mine", root=tmp_path)


def test_an_override_of_one_row_changes_no_other(root: Path) -> None:
    """`sft_rl` and `sft_rl_k3_0.1` are written with one YAML alias."""
    plain, changed = (
        load_plan("coupling", root=root, overrides=overrides)
        for overrides in ({}, {"methods": {"sft_rl": {"options": {"second_steps": 41}}}})
    )
    differ = {
        theirs.label
        for theirs, ours in zip(plain.runs, changed.runs, strict=True)
        if theirs.spec_hash != ours.spec_hash
    }
    assert differ == {"sft_rl"}
