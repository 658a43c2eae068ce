"""What holds for every data set: a file in bridge/tasks/ with a FAMILY is picked up by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from lm_eval.tasks import TaskManager

import bridge.tasks
from bridge.evaluation.tasks import write_tasks
from bridge.grading import GradeItem, GraderPool
from bridge.grading.extraction import last_boxed
from bridge.jobs import cli
from bridge.plan.grid import load_plan
from bridge.run.building import build_run
from bridge.store.records import file_hash
from bridge.store.schema import ConfigError
from bridge.tasks import registry
from bridge.tasks.base import Family, ProblemError, canonical, check_disjoint, check_problems
from bridge.tasks.registry import family_names, load_family
from tests.fixtures.real_data import data_root

SMALL: dict[str, Any] = {"train_size": 48, "validation_size": 16, "questions_scale": 0.02}
EVALUATED_ONLY = {"gpqa"}


def write_own(folder: Path) -> dict[str, Any]:
    """Options of the ``own`` family for three small files."""
    options: dict[str, Any] = {}
    for k, split in enumerate(("train", "validation", "test")):
        path = folder / f"{split}.jsonl"
        rows = [
            {
                "id": f"{split}{i}",
                "question": f"{i} + {100 * k} ?",
                "answer": str(i + 100 * k),
                **({"demonstration": f"\\boxed{{{i}}}"} if split == "train" else {}),
            }
            for i in range(6)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        options[split] = {"path": str(path), "sha256": file_hash(path)}
    options["benchmarks"] = {"own_test": options.pop("test")}
    return options


@pytest.fixture(params=family_names())
def family(request: pytest.FixtureRequest) -> Family:
    return load_family(request.param)


@pytest.fixture
def options(family: Family, tmp_path: Path) -> Any:
    """Small options; skips a real family where its files are not at hand."""
    fields = family.Options.model_fields
    if "questions_scale" in fields:
        return family.Options.model_validate(SMALL)
    if family.name == "own":
        return family.Options.model_validate(write_own(tmp_path))
    chosen: dict[str, Any] = {"data_root": data_root()}
    if "validation_size" in fields:
        chosen["validation_size"] = 50
    if family.name == "mathematics":
        chosen |= {"train": "limr"}
    return family.Options.model_validate(chosen)


def test_its_splits_are_whole_and_disjoint(family: Family, options: Any) -> None:
    sets = {name: family.benchmark(name, options) for name in family.benchmark_names(options)}
    for name, problems in sets.items():
        check_problems(name, problems)
    if family.name in EVALUATED_ONLY:
        with pytest.raises(ProblemError, match="train on another family"):
            family.dataset(options)
        return
    dataset = family.dataset(options)
    check_problems("train", dataset.train)
    check_problems("validation", dataset.validation)
    check_disjoint("train", dataset.train, "validation", dataset.validation)
    for name, problems in sets.items():
        check_disjoint("train", dataset.train, name, problems)
        check_disjoint("validation", dataset.validation, name, problems)


def test_golds_and_demonstrations_earn_the_reward(family: Family, options: Any) -> None:
    problems = [
        p for n in family.benchmark_names(options) for p in family.benchmark(n, options)[:20]
    ]
    taught = []
    if family.name not in EVALUATED_ONLY:
        taught = [p for p in family.dataset(options).demonstrations[:20] if p.demonstration]
    with GraderPool() as pool:
        golds = pool.grade([GradeItem(f"\\boxed{{{p.answer}}}", p.answer) for p in problems])
        assert [g.verdict for g in golds] == ["correct"] * len(problems)
        shown = pool.grade([GradeItem(p.demonstration or "", p.answer) for p in taught])
    assert all(last_boxed(p.demonstration or "") for p in taught)
    # The tiny worlds' experts slip on purpose.
    assert sum(g.verdict == "correct" for g in shown) >= 0.6 * len(taught)
    assert taught or family.name in EVALUATED_ONLY


def test_a_plan_checks_its_options(family: Family, options: Any, tmp_path: Path) -> None:
    family.check(options, "here")
    assert options.model_validate_json(options.model_dump_json()) == options
    if "data_root" in type(options).model_fields:
        missing = options.model_copy(update={"data_root": str(tmp_path / "nowhere")})
        with pytest.raises(ConfigError, match=r"^here: the set \w+ is missing: no file"):
            family.check(missing, "here")


def test_its_tasks_load_in_lm_eval(family: Family, options: Any, tmp_path: Path) -> None:
    folder = tmp_path / "tasks"
    names = family.benchmark_names(options)
    assert write_tasks(folder, {family.name: options}) == 2 * len(names)
    manager = TaskManager(
        include_path=str(folder),
        include_defaults=False,
        metadata={"family_options": options.model_dump(mode="json")},
    )
    for name in family.benchmark_names():
        expected = family.benchmark(name, options)
        for ending in ("", "_sampled"):
            task = manager.load([f"bridge_{name}{ending}"])["tasks"][f"bridge_{name}{ending}"]
            docs = list(task.eval_docs)
            assert [d["question"] for d in docs] == [p.question for p in expected]
            assert task.config.generation_kwargs["max_gen_toks"] == family.answer_tokens
            assert task.config.repeats == (family.n_samples if ending else 1)
            tags = task.config.tag or []
            assert task.config.task not in ([tags] if isinstance(tags, str) else tags)


def test_the_command_writes_the_tasks_of_every_family(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["tasks", str(tmp_path / "out")])
    written = (tmp_path / "out").glob("*.yaml")
    files = sorted(p.stem for p in written if "\ngroup:" not in p.read_text())
    names = [n for f in family_names() for n in load_family(f).benchmark_names()]
    assert files == sorted(f"bridge_{n}{ending}" for n in names for ending in ("", "_sampled"))
    assert capsys.readouterr().out.startswith(f"{len(files)} tasks in ")


def test_one_tiny_round(
    family: Family, options: Any, base: Path, tmp_path: Path, no_workers: None
) -> None:
    """A run on it can be put together: prompts render and fit, or the reason is one sentence."""
    from tests.fixtures.tiny_run import TextGrader, make_spec

    if family.name in EVALUATED_ONLY:
        return
    spec = make_spec(base, "sft", dataset={})
    from dataclasses import replace

    spec = replace(spec, family=family.name, dataset_options=options.model_dump(mode="json"))
    try:
        from bridge.machine.ranks import ALONE

        run = build_run(spec, spec.folder(tmp_path), TextGrader(), base, ALONE)
    except ProblemError as error:
        assert "context" in str(error) or "tokens" in str(error), error
        return
    assert run.policy.sampler.prompt_ids(run.dataset.train[0].question)


def test_the_data_set_of_the_how_to_is_one_file(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page's file, put beside the others, is found, planned and evaluated without an edit."""
    text = (root / "docs/how-to/add-a-dataset.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    (tmp_path / "sums.py").write_text(code)
    monkeypatch.setattr(bridge.tasks, "__path__", [str(tmp_path), *bridge.tasks.__path__])
    monkeypatch.setattr(registry, "family_names", lambda: (*family_names(), "sums"))
    family = registry.load_family("sums")
    options = family.Options()
    family.check(options, "here")
    dataset = family.dataset(options)
    for name in family.benchmark_names():
        questions = family.benchmark(name, options)
        check_problems(name, questions)
        check_disjoint("train", dataset.train, name, questions)
        check_disjoint("validation", dataset.validation, name, questions)
    check_disjoint("train", dataset.train, "validation", dataset.validation)
    assert len(dataset.demonstrations) == 50
    with GraderPool() as pool:
        shown = [GradeItem(p.demonstration or "", p.answer) for p in dataset.demonstrations]
        assert {g.verdict for g in pool.grade(shown)} == {"correct"}


# -- what is refused, at the plan or when a file is read ------------------------------------------


def plan_with(
    tmp_path: Path, root: Path, family: str, options: dict[str, Any], base: Path | None = None
) -> None:
    raw = yaml.safe_load((root / "suites" / "smoke.yaml").read_text())
    if base is not None:
        raw["models"] = {"tiny-qwen": {"source": "local", "path": str(base)}}
    raw["datasets"] = {"chains": {"family": family, "options": options}}
    (tmp_path / "suites").mkdir(exist_ok=True)
    (tmp_path / "suites" / "mine.yaml").write_text(yaml.safe_dump(raw))
    load_plan("mine", root=tmp_path)


def test_a_plan_refuses_a_missing_and_a_changed_file(
    base: Path, tmp_path: Path, root: Path
) -> None:
    options = write_own(tmp_path)
    plan_with(tmp_path, root, "own", options, base)
    (tmp_path / "test.jsonl").write_text('{"id": "a", "question": "q", "answer": "1"}\n')
    with pytest.raises(ConfigError, match=r"datasets\.chains: .*test\.jsonl: the file's SHA-256"):
        plan_with(tmp_path, root, "own", options, base)
    (tmp_path / "test.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"datasets\.chains: .*no such file"):
        plan_with(tmp_path, root, "own", options, base)


@pytest.mark.parametrize(
    ("names", "words"),
    [((), "names no benchmark"), (("a b",), "with characters"), (("a", "a"), "'a' twice")],
)
def test_a_plan_refuses_what_could_not_be_evaluated(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], words: str
) -> None:
    chains = load_family("chains")
    monkeypatch.setattr(type(chains), "benchmark_names", lambda self, options: names)
    with pytest.raises(ConfigError, match=words):
        plan_with(tmp_path, root, "chains", {})


GOOD = {"id": "a", "question": "2 + 2 ?", "answer": "4"}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "has no line"),
        ([GOOD, {**GOOD, "id": "b", "answer": "5"}], "line 2: the question of line 1 again"),
        ([GOOD, {**GOOD, "id": "b", "question": " 2 +  2 ? "}], "line 2: the question of line 1"),
        (
            [GOOD, {**GOOD, "id": "b", "question": "2 +\u200b 2 ?"}],
            "line 2: the question of line 1",
        ),
        ([{**GOOD, "question": "a\x00b"}], r"line 1: problem 'a' has the character U\+0000"),
        ([{**GOOD, "id": "a\nb"}], "printable characters"),
        ([{**GOOD, "id": "x" * 300}], "printable characters"),
        ([{**GOOD, "question": "q" * 1_000_001}], "over 1,000,000"),
        (['{"id": "a", "id": "b", "question": "q", "answer": "1"}'], "'id' is given twice"),
        (['{"id": "a", "question": "\\ud800", "answer": "1"}'], r"U\+D800|surrogate"),
        (["[" * 5000], "line 1: not a JSON object"),
    ],
)
def test_bad_lines_are_refused_when_the_file_is_read(
    tmp_path: Path, lines: list[Any], words: str
) -> None:
    options = write_own(tmp_path)
    path = tmp_path / "train.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(text + "\n" for text in texts))
    options["train"]["sha256"] = file_hash(path)
    family = load_family("own")
    with pytest.raises(ProblemError, match=words) as refused:
        family.dataset(family.Options.model_validate(options))
    assert "train.jsonl" in str(refused.value) and len(str(refused.value)) < 700


def test_copies_in_another_form_are_the_same_question() -> None:
    assert canonical("Caf\u00e9 \u2460") == canonical("CAFE\u0301  1")
    assert canonical("a\u200bb\ufeff") == canonical("ab")
    assert canonical("x\u0304") != canonical("x")


def test_validation_questions_are_no_test_questions(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bridge.plan.questions import checked_dataset
    from tests.fixtures.tiny_run import make_spec

    chains = load_family("chains")
    original = type(chains).benchmark

    def leaky(self: Any, name: str, options: Any) -> Any:
        return (*original(self, name, options), self.dataset(options).validation[0])

    monkeypatch.setattr(type(chains), "benchmark", leaky)
    with pytest.raises(ProblemError, match=r"is also question '.*' of chains validation"):
        checked_dataset(make_spec(base, "sft"))
