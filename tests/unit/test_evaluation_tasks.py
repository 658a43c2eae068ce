"""The tasks: they load in lm-eval, ask our families' questions and decode as documented."""

from __future__ import annotations

from typing import Any

import pytest
from lm_eval.tasks import TaskManager

from bridge.evaluation import questions
from bridge.evaluation.answers import load_tasks
from bridge.evaluation.tasks import write_tasks
from bridge.store.schema import ConfigError
from bridge.tasks.registry import family_names, load_family
from tests.fixtures.evaluation import make_spec

FAMILIES = ("chains", "equations")


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> TaskManager:
    """All tasks as lm-eval's command line knows them, without anything set by the runner."""
    folder = tmp_path_factory.mktemp("tasks")
    write_tasks(folder)
    return TaskManager(include_path=str(folder), include_defaults=False)


@pytest.fixture(scope="module")
def loaded(manager: TaskManager) -> dict[str, Any]:
    tags = [f"bridge_{f}_tasks{kind}" for f in FAMILIES for kind in ("", "_sampled")]
    tasks: dict[str, Any] = manager.load(tags)["tasks"]
    return tasks


def test_a_family_with_several_benchmarks_is_a_group(manager: TaskManager) -> None:
    for kind in ("", "_sampled"):
        found = manager.load([f"bridge_chains{kind}"])
        names = [f"bridge_rung{i}{kind}" for i in range(1, 6)]
        assert found["group_map"] == {f"bridge_chains{kind}": names}
    assert "bridge_mathematics" in manager.all_groups
    assert "bridge_cola" not in manager.all_groups, "one benchmark needs no mean"


def test_no_name_means_two_things(manager: TaskManager) -> None:
    tasks, groups, tags = (
        set(names) for names in (manager.all_subtasks, manager.all_groups, manager.all_tags)
    )
    assert len(tasks) > 40 and len(tags) == 2 * len([n for n in family_names() if n != "own"])
    assert not tasks & groups and not tasks & tags and not groups & tags


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["", "_sampled"])
def test_questions_are_the_family_s(loaded: dict[str, Any], family: str, kind: str) -> None:
    source = load_family(family)
    for name in source.benchmark_names():
        expected = source.benchmark(name, source.Options())
        task = loaded[f"bridge_{name}{kind}"]
        docs = list(task.eval_docs)
        assert [d["question"] for d in docs] == [p.question for p in expected]
        assert [d["answer"] for d in docs] == [p.answer for p in expected]
        assert [(d["id"], d["difficulty"]) for d in docs] == [
            (p.id, p.difficulty) for p in expected
        ]
        assert task.doc_to_text(docs[0]) == expected[0].question
    assert len(loaded) == 2 * 5 * len(FAMILIES)


def test_decoding_is_explicit(loaded: dict[str, Any]) -> None:
    for name, task in loaded.items():
        settings = dict(task.config.generation_kwargs)
        assert settings.pop("max_gen_toks") == 128
        if name.endswith("_sampled"):
            assert task.config.repeats == 8
            assert settings == {
                "until": [],
                "do_sample": True,
                "temperature": 1.0,
                "top_p": 1.0,
                "top_k": 0,
                "repetition_penalty": 1.0,
            }
        else:
            assert task.config.repeats == 1
            assert settings == {"until": [], "do_sample": False, "repetition_penalty": 1.0}
        assert task.VERSION == 1


def test_the_configuration_decides_length_temperature_and_repeats() -> None:
    evaluation = make_spec(
        n_samples=3, sampled_questions=2, temperature=0.7, max_response_tokens=33
    ).evaluation
    options = {"questions_scale": 0.02, "seed": 5}
    _, greedy, *_ = load_tasks("chains", options, evaluation, sampled=False).tasks.values()
    _, sampled, *_ = load_tasks("chains", options, evaluation, sampled=True).tasks.values()
    assert greedy.config.generation_kwargs["max_gen_toks"] == 33
    assert "temperature" not in greedy.config.generation_kwargs
    assert sampled.config.generation_kwargs["max_gen_toks"] == 33
    assert sampled.config.generation_kwargs["temperature"] == 0.7
    assert (greedy.config.repeats, sampled.config.repeats) == (1, 3)
    source = load_family("chains")
    expected = source.benchmark("rung2", source.Options(questions_scale=0.02, seed=5))
    assert [d["question"] for d in greedy.eval_docs] == [p.question for p in expected]


def test_a_limit_keeps_the_same_questions_always() -> None:
    """Drawn over the whole benchmark and in its order, whatever is asked otherwise."""
    whole = load_family("chains").benchmark("rung2", load_family("chains").Options())
    few, more = (questions.drawn("rung2", whole, n) for n in (20, 60))
    assert (len(few), len(more), questions.drawn("rung2", whole, None)) == (20, 60, list(whole))
    assert [p for p in more if p in few] == few and few != list(whole[:20])
    assert [p for p in whole if p in few] == few
    evaluation = make_spec(questions=20, n_samples=2, sampled_questions=5).evaluation
    for sampled in (False, True):
        task = load_tasks("chains", {}, evaluation, sampled=sampled).tasks["rung2"]
        assert [d["id"] for d in task.eval_docs] == [p.id for p in few]


def test_the_description_changes_with_the_questions() -> None:
    evaluation = make_spec().evaluation

    def described(seed: int) -> Any:
        options = {"questions_scale": 0.02, "seed": seed}
        return load_tasks("chains", options, evaluation, sampled=False).describe()

    assert described(0) == described(0)
    assert described(0)["bridge_rung1"]["version"] == 1
    assert described(0)["bridge_rung1"]["hash"] != described(1)["bridge_rung1"]["hash"]


def test_an_unknown_option() -> None:
    with pytest.raises(ConfigError, match="questions_scale"):
        questions.load_questions("chains", "rung1", {"question_scale": 1.0})


def test_scores_of_the_command_line() -> None:
    doc = {"answer": "7"}
    right, wrong, none = "so \\boxed{ 7 }", "\\boxed{8}", "seven"
    assert questions.score_greedy(doc, [[right]]) == {"exact_match": 1.0}
    assert questions.score_greedy(doc, [[none]]) == {"exact_match": 0.0}
    assert questions.score_samples(doc, [[wrong, right, none, wrong]]) == {
        "avg_at_n": 0.25,
        "pass_at_n": 1.0,
    }
    assert questions.score_samples(doc, [[wrong, none]]) == {"avg_at_n": 0.0, "pass_at_n": 0.0}
    with pytest.raises(ValueError, match="2 answers"):
        questions.score_greedy(doc, [[right, right]])
