"""The workflow: what it plans, what an edit reruns, and what a failed run does to the others.

Jobs are stand-ins that write records (``tests/fixtures/workflow.py``), so nothing is trained here;
collecting, tables, figures and the report are the real ones.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import yaml

from bridge.analysis.figures.captions import CAPTIONS
from bridge.plan.grid import load_plan
from bridge.store.records import read_json
from tests.fixtures.workflow import Workspace

SMOKE = ("--config", "suite=smoke")
FEW = ("--config", "suite=few")
SHOW = {"collect": 1, "tables": 1, "draw": 1, "report": 1, "all": 1}
LINT_CLEAN = "Congratulations, your workflow is in a good condition!"
BLOCKED = ("torch", "transformers", "numpy", "pandas", "pyarrow", "matplotlib", "peft")


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The workflow without results; tests leave none behind."""
    return Workspace.make(tmp_path_factory.mktemp("fresh"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The workflow after a whole run of a small suite."""
    space = Workspace.make(tmp_path_factory.mktemp("finished"))
    done = space.snakemake("--cores", "2", *FEW)
    assert done.returncode == 0, done.stderr
    return space


# -- the plan --------------------------------------------------------------------------------------


def test_a_fresh_clone_plans_every_run_once(fresh: Workspace, root: Path) -> None:
    smoke = {"prepare": 1, "train": 10, "evaluate": 10} | SHOW
    assert fresh.planned(*SMOKE) == smoke
    plan = load_plan("laptop", root=root)
    runs = {"train": len(plan.runs), "evaluate": len(plan.runs)}
    assert fresh.planned() == {"prepare": len(plan.made_models)} | runs | SHOW


def test_planning_works_on_a_bare_machine(fresh: Workspace, tmp_path: Path) -> None:
    """With Snakemake, pydantic and PyYAML only: importing anything else of ours fails.

    Snakemake imports every executor plugin that is installed, and the one for SLURM wants pandas.
    """
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, traceback\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        stack = ''.join(f.filename for f in traceback.extract_stack())\n"
        f"        if name.split('.')[0] in {BLOCKED!r} and 'executor_plugin' not in stack:\n"
        "            raise ImportError(f'{name} is not installed')\n"
        "sys.meta_path.insert(0, Block())\n"
    )
    blocked = fresh.run("-c", "import numpy", PYTHONPATH=str(tmp_path))
    assert "numpy is not installed" in blocked.stderr
    assert fresh.planned(PYTHONPATH=str(tmp_path))["train"] > 40


def test_a_study_predicts_between_its_phases(fresh: Workspace) -> None:
    study = ("-s", "studies/coupling/Snakefile", "--config", "suite=coupling_smoke")
    around = {"expert": 1, "predict": 1, "observe": 1, "compare": 1, "draw_study": 1, "coupling": 1}
    assert fresh.planned("coupling", *study) == {"prepare": 1, "train_in_order": 6} | around
    runs = "results/coupling_smoke/runs/tiny-qwen/bare"
    first = {"prepare": 1, "expert": 1, "train_in_order": 1}
    assert fresh.planned(f"{runs}/sft/seed0/done.json", *study) == first
    # A second phase needs the predictions, and these need every first phase of the study.
    second = first | {"train_in_order": 4, "predict": 1}
    assert fresh.planned(f"{runs}/sft_rl/seed0/done.json", *study) == second
    no_study = fresh.snakemake("-s", "studies/coupling/Snakefile", "-n", "coupling", *SMOKE)
    assert no_study.returncode != 0
    assert "suite 'smoke' has no run of two phases to study" in no_study.stdout + no_study.stderr


def test_the_harness_does_not_know_its_studies(root: Path) -> None:
    """Docstrings and comments may name them; code, rules and suites do not."""
    for path in (root / "bridge").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        names |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        assert not any("coupling" in name.lower() for name in names), path
    for path in (root / "Snakefile", *(root / "rules").glob("*.smk"), *(root / "suites").glob("*")):
        assert "coupling" not in path.read_text(encoding="utf-8").lower(), path


def test_a_study_without_a_first_phase_is_refused_before_anything_runs(fresh: Workspace) -> None:
    change = (
        "overrides={grid: [{models: [tiny-qwen], datasets: [bare], methods: [sft_rl], seeds: [0]}]}"
    )
    done = fresh.snakemake(
        *("-s", "studies/coupling/Snakefile", "-n", "coupling"),
        *("--config", "suite=coupling_smoke", change),
    )
    assert done.returncode != 0
    assert "has no run that ends at its change of phase" in done.stderr
    assert "Traceback" not in done.stderr


def test_one_run_can_be_asked_for_by_its_file(fresh: Workspace) -> None:
    target = "results/smoke/runs/tiny-qwen/chains/sft/seed1/scores.json"
    assert fresh.planned(target, *SMOKE) == {"prepare": 1, "train": 1, "evaluate": 1}


@pytest.mark.parametrize("run", ["tiny-qwen/chains/sft/seed7", "tiny-qwen/chains/mixing/seed0"])
def test_a_run_outside_the_grid_is_not_made(fresh: Workspace, run: str) -> None:
    done = fresh.snakemake("-n", f"results/smoke/runs/{run}/scores.json", *SMOKE)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr


def test_what_the_workflow_catalog_is_told(root: Path) -> None:
    """It lists a repository with a Snakefile in its root, rules beside it, and a README."""
    usage = yaml.safe_load((root / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert set(usage) == {"mandatory-flags", "software-stack-deployment", "report"}
    assert usage["mandatory-flags"]["flags"] == "--software-deployment-method conda"
    assert usage["software-stack-deployment"]["conda"] is True
    for path in (root / "rules").glob("*.smk"):
        rules = re.split(r"^rule \w+:$", path.read_text(), flags=re.MULTILINE)[1:]
        assert all("conda:" in rule for rule in rules if "shell:" in rule), path
    assert usage["report"] is True
    assert (root / "README.md").is_file() and (root / "Snakefile").is_file()


def test_the_workflow_is_lint_clean(fresh: Workspace) -> None:
    done = fresh.snakemake("--lint")
    assert done.returncode == 0
    assert LINT_CLEAN in done.stdout + done.stderr


# -- mistakes --------------------------------------------------------------------------------------


def read_log(path: Path) -> str:
    """The last line of a log, which is there."""
    return path.read_text().splitlines()[-1]


def refusal(done_stderr: str) -> str:
    """The one line of ours on stderr, which has to be the only thing that looks like an error."""
    assert "Traceback" not in done_stderr
    assert "Exception" not in done_stderr
    lines = [line for line in done_stderr.splitlines() if line.startswith("bridge: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["suit=smoke"], "--config: suit: unknown key; did you mean 'suite'?"),
        (["suite=smokey"], "suites/smokey.yaml: no such file; files there: "),
        (["threads=two"], "--config: threads: Input should be a valid integer"),
        (["suite=../smoke"], "--config: suite: '../smoke' is no name"),
        (["suite="], "--config: suite: "),
        (
            ["suite=smoke", "overrides={training: {n: 4, n: 8}}"],
            "--config overrides: line 1: the key 'n' is given twice; keep one",
        ),
        (
            ["suite=smoke", "overrides={training: {lr_slt: 1}}"],
            "overrides.training.lr_slt: unknown key; did you mean 'lr_sft'?",
        ),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(
    fresh: Workspace, arguments: list[str], said: str
) -> None:
    done = fresh.snakemake("-n", "--config", *arguments)
    assert done.returncode == 2
    assert said in refusal(done.stderr)


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        (
            "config.yaml",
            "threads: 1",
            "thread: 1",
            "config.yaml: thread: unknown key; did you mean 'threads'?",
        ),
        ("config.yaml", "suite: laptop", "suite: [laptop", "config.yaml: not readable as YAML"),
        (
            "suites/laptop.yaml",
            "training:",
            "training:\n  temprature: 1.0",
            "suites/laptop.yaml: training.temprature: unknown key; did you mean 'temperature'?",
        ),
    ],
)
def test_a_mistake_in_a_file_is_one_line(
    fresh: Workspace, file: str, old: str, new: str, said: str
) -> None:
    with fresh.edited(file, old, new):
        done = fresh.snakemake("-n")
        assert done.returncode == 2
        assert said in refusal(done.stderr)
        command = fresh.bridge("status")
        assert command.returncode == 2
        assert said in refusal(command.stderr)


# -- a finished grid -------------------------------------------------------------------------------


def test_all_results_are_there(finished: Workspace) -> None:
    done = finished.bridge("summary", "--suite", "few")
    assert done.returncode == 0, done.stderr
    assert "BRIDGE" in done.stdout
    assert "Report: results/few/report.html" in done.stdout
    for folder, names in (
        ("results/few/tables", {f"{n}.{e}" for n in ("main", "cost") for e in ("csv", "md")}),
        ("figures/few", {f"{n}.{e}" for n in CAPTIONS for e in ("png", "pdf", "svg")}),
    ):
        assert names <= {p.name for p in (finished.path / folder).iterdir()}
    assert "3 runs: 3 done" in finished.bridge("status", "--suite", "few").stdout


def test_snakemakes_own_report_has_every_figure_table_and_caption(finished: Workspace) -> None:
    """What the workflow catalog is told of (``report: true``)."""
    done = finished.snakemake("--report", "report.zip", *FEW)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(finished.path / "report.zip") as archive:
        names = {Path(name).name for name in archive.namelist()}
        page = archive.read("report/report.html").decode()
    assert {f"{name}.png" for name in CAPTIONS} | {"main.html", "report.html"} <= names
    assert "of the suite <tt" in page, "the description of the workflow"
    assert "numbers in columns of their own" in page, "the caption of the main table"


def test_every_table_and_figure_has_a_caption(root: Path) -> None:
    """A table that a small suite lacks must not stop the report of a large one."""
    listed = (root / "rules/common.smk").read_text().partition("def table_names")[2]
    tables = set(re.findall(r'"(\w+)"(?:\]|,|\))', listed.partition("TABLE_NAMES")[0]))
    assert {"main", "ranks", "sampled", "rates"} <= tables
    captions = {path.stem for path in (root / "report").glob("*.rst")}
    assert captions == tables | set(CAPTIONS) | {"report", "workflow"}


def test_results_that_were_copied_are_not_made_again(finished: Workspace, tmp_path: Path) -> None:
    """Without Snakemake's own notes, as after a copy to another machine that keeps file times."""
    clone = Workspace.make(tmp_path / "clone")
    for name in ("results", "figures"):
        shutil.copytree(finished.path / name, clone.path / name, dirs_exist_ok=True)
    assert clone.planned(*FEW) == {}
    # Nor do they hide what the grid has got since, nor does asking for it make them stale.
    with clone.edited("suites/few.yaml", "seeds: [0]", "seeds: [0, 1]"):
        assert clone.planned(*FEW) == {"train": 3, "evaluate": 3} | SHOW
    assert clone.planned(*FEW) == {}


def test_tables_that_were_collected_by_hand_do_not_stand_for_missing_runs(
    finished: Workspace, tmp_path: Path
) -> None:
    clone = Workspace.make(tmp_path / "clone")
    for name in ("results", "figures"):
        shutil.copytree(finished.path / name, clone.path / name, dirs_exist_ok=True)
    shutil.rmtree(clone.path / "results/few/runs/tiny-qwen/chains/bridge")
    block = {"models": ["tiny-qwen"], "datasets": ["chains"], "methods": ["sft"], "seeds": [0]}
    fewer = json.dumps({"grid": [block]})
    done = clone.bridge("collect", "--suite", "few", "--overrides", fewer)
    assert done.returncode == 0, done.stderr
    assert clone.planned(*FEW) == {"train": 1, "evaluate": 1} | SHOW


def test_waiting_jobs_are_looked_at_when_one_ends_and_not_every_second(tmp_path: Path) -> None:
    space = Workspace.make(tmp_path)
    done = space.snakemake("--cores", "1", "--verbose", "--until", "evaluate", *FEW)
    assert done.returncode == 0, done.stderr
    n_jobs = 1 + 3 + 3
    assert done.stderr.count("Ready jobs: ") <= n_jobs


ONE_TRAINING = {"train": 1, "evaluate": 1} | SHOW
ALL_TRAINING = {"train": 3, "evaluate": 3} | SHOW


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("bridge/methods/sft.py", ONE_TRAINING),
        ("bridge/tasks/chains.py", {"prepare": 1} | ALL_TRAINING),
        ("bridge/analysis/tables/accuracy.py", {"tables": 1, "report": 1, "all": 1}),
    ],
)
def test_an_edit_reruns_what_depends_on_it(
    finished: Workspace, file: str, expected: dict[str, int]
) -> None:
    with finished.edited(file, "", "\nADDED = 1\n"):
        assert finished.planned(*FEW) == expected


def test_a_second_run_has_nothing_to_do_even_after_a_remark(finished: Workspace) -> None:
    with (
        finished.edited("bridge/step/objectives/kl.py", "", "\n# A remark.\n"),
        finished.edited("bridge/analysis/tables/accuracy.py", "", "\n# A remark.\n"),
        finished.edited("bridge/collect/status.py", "", "\nADDED = 1\n"),
    ):
        assert finished.planned(*FEW) == {}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("{methods: {sft: {options: {steps: 9}}}}", ONE_TRAINING),
        ("{evaluation: {temperature: 0.5}}", {"evaluate": 3} | SHOW),
        ("{title: Another}", {}),
    ],
)
def test_a_changed_setting_reruns_what_depends_on_it(
    finished: Workspace, override: str, expected: dict[str, int]
) -> None:
    assert finished.planned(*FEW, f"overrides={override}") == expected


def test_a_job_refuses_a_configuration_that_was_not_planned(finished: Workspace) -> None:
    run = ("--model", "tiny-qwen", "--dataset", "chains", "--method", "sft", "--seed", "0")
    for command in ("train", "evaluate"):
        done = finished.bridge(command, "--suite", "few", *run, "--expect", "another")
        assert done.returncode == 2
        assert "the configuration changed after this job was planned" in refusal(done.stderr)


def test_tables_and_figures_are_rebuilt_from_committed_results(
    finished: Workspace, tmp_path: Path
) -> None:
    """In a clone: no runs, only the tidy tables."""
    clone = Workspace.make(tmp_path / "clone")
    cached = clone.path / "results/cached/few"
    cached.mkdir(parents=True)
    for path in (finished.path / "results/few/tidy").iterdir():
        (cached / path.name).write_bytes(path.read_bytes())
    arguments = ("figures", *FEW, "source=cached")
    assert clone.planned(*arguments) == {"tables": 1, "draw": 1, "report": 1, "figures": 1}
    done = clone.snakemake("--cores", "1", "results/few/tables/main.csv", *arguments[1:])
    assert done.returncode == 0, done.stderr
    made, original = (
        (space.path / "results/few/tables/main.csv").read_bytes() for space in (clone, finished)
    )
    assert made == original


# -- runs that go wrong ----------------------------------------------------------------------------


def test_a_grid_with_a_divergence_and_failures(tmp_path: Path) -> None:
    space = Workspace.make(tmp_path / "broken")
    methods = "methods: [sft, rl_zero, cold_start, bridge]"
    few = space.path / "suites" / "few.yaml"
    few.write_text(few.read_text().replace("methods: [base, sft, bridge]", methods))
    verdicts = space.path / "verdicts.txt"
    verdicts.write_text("rl_zero/seed0 diverged\nsft/seed0 fail\nbridge/seed0 crash\n")
    table = "results/few/tables/main.md"
    done = space.snakemake(table, "--cores", "2", *FEW)
    assert done.returncode != 0
    # Snakemake's output ends with the reasons, from the jobs' logs, without the rest of these.
    logs = space.path / "results/few/logs/train/tiny-qwen/chains"
    assert read_log(logs / "sft/seed0.log") in done.stderr
    said = done.stderr.split("failed: ")[1:]
    assert {text.splitlines()[0] for text in said} == {
        f"results/few/logs/train/tiny-qwen/chains/{name}/seed0.log" for name in ("sft", "bridge")
    }
    crash = next(text for text in said if "bridge/seed0.log" in text.splitlines()[0])
    assert "ZeroDivisionError: a defect" in crash and "Traceback" not in done.stderr

    status = space.bridge("status", "--suite", "few").stdout
    assert "4 runs: 1 done, 1 diverged, 2 failed" in status
    assert "sft/seed0: train: sft/seed0 cannot be trained; mend it." in status
    assert "bridge/seed0: train: ZeroDivisionError: a defect" in status
    assert "log: results/few/logs/train/tiny-qwen/chains/bridge/seed0.log" in status
    assert 'raise ZeroDivisionError("a defect")' in status

    refused = space.bridge("collect", "--suite", "few")
    assert refused.returncode == 2
    assert "tiny-qwen/chains/sft/seed0 is not finished" in refusal(refused.stderr)
    for command in ("collect", "tables"):
        assert space.bridge(command, "--suite", "few", "--partial").returncode == 0
    assert "failed" in space.bridge("summary", "--suite", "few", "--partial").stdout
    manifest = read_json(space.path / "results/few/partial/tidy/manifest.json")
    assert manifest["runs"]["tiny-qwen/chains/sft/seed0"]["status"] == "failed"
    assert manifest["runs"]["tiny-qwen/chains/rl_zero/seed0"]["status"] == "diverged"

    # The cause is mended: only what is missing is made, the divergence stays a result.
    verdicts.write_text("")
    left = space.planned(table, *FEW)
    assert (left["train"], left["evaluate"]) == (2, 2)
    done = space.snakemake(table, "--cores", "2", *FEW)
    assert done.returncode == 0, done.stderr
    assert "3 done, 1 diverged" in space.bridge("status", "--suite", "few").stdout
    assert "diverged" in (space.path / table).read_text()
    assert not list(space.path.glob("results/few/runs/**/failed.json"))


def test_a_suite_where_every_run_diverges_gets_its_tables_and_report(tmp_path: Path) -> None:
    space = Workspace.make(tmp_path / "diverged")
    rows = ("base", "sft", "bridge")
    (space.path / "verdicts.txt").write_text("".join(f"{m}/seed0 diverged\n" for m in rows))
    done = space.snakemake("--cores", "2", *FEW)
    assert done.returncode == 0, done.stderr
    tables = space.path / "results/few/tables"
    assert "diverged 1/1" in (tables / "main.md").read_text()
    assert "has a number for this table: 3 diverged" in (tables / "sampled.md").read_text()
    assert (space.path / "results/few/report.html").is_file()


def test_old_scores_do_not_hide_a_training_that_failed(tmp_path: Path) -> None:
    """An edit, a failure: the old scores are still there, and must not count as up to date."""
    space = Workspace.make(tmp_path / "again")
    run = "results/few/runs/tiny-qwen/chains/sft/seed0"
    target = f"{run}/scores.json"
    assert space.snakemake(target, "--cores", "1", *FEW).returncode == 0
    assert space.planned(target, *FEW) == {}
    with space.edited("bridge/step/objectives/kl.py", "", "\nADDED = 1\n"):
        with space.edited("verdicts.txt", "", "sft/seed0 fail\n"):
            assert space.snakemake(target, "--cores", "1", *FEW).returncode != 0
        assert (space.path / target).is_file()
        assert space.planned(target, *FEW) == {"train": 1, "evaluate": 1}


def test_a_defect_keeps_its_traceback(fresh: Workspace) -> None:
    run = ("--model", "tiny-qwen", "--dataset", "chains", "--method", "sft", "--seed", "0")
    verdicts = fresh.path / "verdicts.txt"
    with fresh.edited("verdicts.txt", "", "sft/seed0 crash\n"):
        done = fresh.bridge("train", "--suite", "few", "--results", "elsewhere", *run)
    assert verdicts.read_text() == ""
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError: a defect" in done.stderr


def test_the_commands_fail_in_one_line_outside_the_repository(
    fresh: Workspace, tmp_path: Path, root: Path
) -> None:
    below = fresh.path / "suites"
    for folder, home, command in (
        (tmp_path, root, ("-m", "bridge", "status")),
        (below, fresh.path, ("-m", "bridge", "status")),
        (tmp_path, fresh.path, ("-m", "snakemake", "-s", f"{fresh.path}/Snakefile", "-n")),
    ):
        done = Workspace(folder).run(*command)
        assert done.returncode == 2
        assert refusal(done.stderr) == (
            f"bridge: no config.yaml in {folder}; run {command[1]} in the repository's folder: "
            f"cd {home}."
        )


def test_figures_without_committed_tables_say_where_they_come_from(fresh: Workspace) -> None:
    done = fresh.snakemake("-n", "figures", *SMOKE, "source=cached")
    assert done.returncode == 2
    assert refusal(done.stderr) == (
        "bridge: suite 'smoke' has no tables in results/cached/smoke; run it and copy them with "
        "bridge cache --suite smoke, or name one that has: none."
    )
    done = fresh.snakemake("-n", "tune", *SMOKE)
    assert "suite 'smoke' is no grid of learning rates" in refusal(done.stderr)
