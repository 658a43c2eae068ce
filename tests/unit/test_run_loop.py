"""A whole run: what it writes, how it diverges, what it refuses."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bridge.engines.native import NativeEngine
from bridge.machine.telemetry import Stopwatch
from bridge.models.checkpoint import CheckpointError, load_policy, weights_hash
from bridge.plan.grid import RunSpec
from bridge.run import loop as run_module
from bridge.run.experience import Collector
from bridge.run.loop import Run, train_run
from bridge.run.streams import check_lengths, positions
from bridge.step.rollouts import Prompt
from bridge.step.rows import Request, demonstration_row
from bridge.store.records import RecordError, RunFolder, folder_hash
from bridge.store.seeds import derive_seed
from bridge.tasks.base import Dataset, Problem, ProblemError
from bridge.tasks.registry import load_family
from tests.fixtures.tiny_run import (
    DATASET,
    PROBLEM,
    TextGrader,
    make_method,
    make_spec,
    make_training,
    read_lines,
)

pytestmark = pytest.mark.usefixtures("no_workers")


def train(spec: RunSpec, results: Path) -> tuple[RunFolder, dict[str, Any]]:
    train_run(spec, results=results, threads=1)
    folder = spec.folder(results)
    return folder, json.loads(folder.done.read_text())


# -- what a run leaves --------------------------------------------------------------------------


def test_a_finished_run_leaves_a_policy_that_loads_and_no_checkpoints(
    base: Path, tmp_path: Path
) -> None:
    folder, done = train(make_spec(base, "bridge"), tmp_path)
    assert done["status"] == "done" and done["policy"] == "policy"
    assert 0 < done["demonstrations"]["demonstrated"] <= done["demonstrations"]["prompts"]
    assert load_policy(folder.policy).n_parameters == load_policy(base).n_parameters
    assert not folder.resume.exists() and not folder.heartbeat.exists()
    assert [line["step"] for line in read_lines(folder.dynamics)] == [0, 1, 2, 3]


def test_the_same_run_twice_is_the_same_bytes(base: Path, tmp_path: Path) -> None:
    spec = make_spec(base, "mixing")
    pair = [train(spec, tmp_path / name)[0] for name in ("one", "two")]
    assert pair[0].dynamics.read_bytes() == pair[1].dynamics.read_bytes()
    weights = [(f.policy / "model.safetensors").read_bytes() for f in pair]
    assert weights[0] == weights[1]


def test_another_seed_is_another_run(base: Path, tmp_path: Path) -> None:
    folders = [train(make_spec(base, "mixing", seed=seed), tmp_path)[0] for seed in (0, 1)]
    assert folders[0].dynamics.read_bytes() != folders[1].dynamics.read_bytes()


def test_the_saved_policy_is_the_merged_one(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Run] = []
    original = run_module._save
    monkeypatch.setattr(run_module, "_save", lambda run, b: (seen.append(run), original(run, b))[1])
    folder, _ = train(make_spec(base, "bridge", options={"beta_ratio": 50.0}), tmp_path)
    held = seen[0].policy
    assert held.adapter_norm() > 0
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        saved = load_policy(folder.policy).model(input_ids=ids).logits
        assert held._peft is not None
        live = held._peft(input_ids=ids).logits
    assert torch.allclose(saved, live, atol=1e-5)


def test_the_untrained_row_points_at_the_base(base: Path, tmp_path: Path) -> None:
    folder, done = train(make_spec(base, "untrained"), tmp_path)
    assert (folder.path / done["policy"]).resolve() == base.resolve()
    assert not folder.policy.exists()


def test_tokens_are_counted_as_spent(base: Path, tmp_path: Path) -> None:
    folder, done = train(make_spec(base, "rl_zero", n=3, prompts_per_step=4), tmp_path)
    lines = read_lines(folder.dynamics)[1:]
    assert done["tokens"]["generated"] == sum(
        round(line["response_length_mean"] * 12) for line in lines
    )
    assert done["flops"]["total"] == done["flops"]["generate"] + done["flops"]["train"]


def test_the_base_models_own_hash_is_recorded(base: Path, tmp_path: Path) -> None:
    assert weights_hash(base) == folder_hash(base)
    made = tmp_path / "made"
    made.mkdir()
    (made / "base.json").write_text('{"hash": "abc", "seconds": 1.5}')
    assert weights_hash(made) == "abc"


# -- divergence ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["sft", "bridge"])
def test_a_loss_that_is_nan_is_recorded_as_diverged(
    base: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(base, method)
    original = Run.step

    def poisoned(self: Run) -> dict[str, Any]:
        if self.counters.step == 2:
            with torch.no_grad():
                self.policy.parameters["base"][0].fill_(math.nan)
            self.policy.changed()
        return original(self)

    monkeypatch.setattr(Run, "step", poisoned)
    assert train_run(spec, results=tmp_path, threads=1) == "diverged"
    folder = spec.folder(tmp_path)
    done = json.loads(folder.done.read_text())
    assert done["status"] == "diverged" and done["policy"] is None
    assert done["reason"].startswith("step 3: ") and "nan" in done["reason"].lower()
    assert not folder.policy.exists() and not folder.resume.exists()
    assert [line["step"] for line in read_lines(folder.dynamics)] == [0, 1, 2]


@pytest.mark.parametrize("method", ["sft", "rl_zero", "alternating", "bridge", "cold_start"])
@pytest.mark.parametrize("probe_every", [1, 100])
def test_an_absurd_rate_is_recorded_as_diverged(
    base: Path, tmp_path: Path, method: str, probe_every: int
) -> None:
    """Weights of 1e30 are finite, their logits are not: whatever sees it first must say so."""
    spec = make_spec(base, method, lr_sft=1e30, lr_rl=1e30, probe_every=probe_every)
    assert train_run(spec, results=tmp_path, threads=1) == "diverged"


def test_a_policy_without_numbers_is_diverged_although_no_reward_tells(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All its answers are wrong alike: every advantage and so the loss is zero."""
    spec = make_spec(base, "rl_zero", probe_every=100)
    original = Run._rollouts

    def poisoned(self: Run, step: int) -> Any:
        if step == 2:
            with torch.no_grad():
                self.policy.parameters["base"][0].fill_(math.nan)
        return original(self, step)

    monkeypatch.setattr(Run, "_rollouts", poisoned)
    assert train_run(spec, results=tmp_path, threads=1) == "diverged"


def test_a_diverged_run_leaves_no_policy_of_an_earlier_attempt(base: Path, tmp_path: Path) -> None:
    folder, _ = train(make_spec(base, "sft"), tmp_path)
    assert folder.policy.exists()
    spec = make_spec(base, "sft", lr_sft=1e30, probe_every=1)
    assert train_run(spec, results=tmp_path, threads=1) == "diverged"
    assert not folder.policy.exists()


# -- streams ------------------------------------------------------------------------------------


def recorded(
    spec: RunSpec, results: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[str], list[str]]:
    """Ids of the prompts and of the demonstrations of a run, in order."""
    prompts: list[str] = []
    taught: list[str] = []
    with monkeypatch.context() as patch:
        groups, take = Collector.groups, Run._take_demonstrated

        def spy(self: Collector, method: Any, problems: Any, *rest: Any, **named: Any) -> Any:
            prompts.extend(p.id for p in problems)
            return groups(self, method, problems, *rest, **named)

        def spy_taken(self: Run, n: int, stream: str) -> list[Any]:
            found = take(self, n, stream)
            if stream == "demonstrations":
                taught.extend(p.id for p in found)
            return found

        patch.setattr(Collector, "groups", spy)
        patch.setattr(Run, "_take_demonstrated", spy_taken)
        train_run(spec, results=results, threads=1)
    return prompts, taught


def test_methods_with_the_same_seed_see_the_same_data_in_the_same_order(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {
        method: recorded(make_spec(base, method), tmp_path, monkeypatch)
        for method in ("rl_zero", "sft", "mixing", "bridge", "alternating", "cold_start")
    }
    prompts, taught = seen["mixing"]
    assert len(prompts) == 18 and len(taught) == 9
    assert seen["rl_zero"] == (prompts, [])
    assert seen["sft"] == ([], taught)
    for method in ("bridge", "alternating", "cold_start"):
        assert seen[method] == (prompts, taught), method


def test_a_stream_is_a_shuffle_per_epoch() -> None:
    stream = positions("prompts", 3, start=0, n=30, size=10)
    epochs = [stream[i : i + 10] for i in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert positions("prompts", 3, start=7, n=9, size=10) == stream[7:16]
    assert positions("prompts", 4, start=0, n=10, size=10) != epochs[0]
    assert positions("demonstrations", 3, start=0, n=10, size=10) != epochs[0]


class Asked:
    """An engine that only writes down what it is asked."""

    def __init__(self) -> None:
        self.prompts: list[Prompt] = []

    def sync(self) -> None: ...

    def wake(self) -> None: ...

    def generate(self, prompts: Any, **settings: Any) -> Any:
        self.prompts.extend(prompts)
        raise StopIteration


def test_sampling_seeds_name_step_question_and_sample(base: Path) -> None:
    policy, training = load_policy(base), make_training(n=3)
    family = load_family("chains")
    problems = family.dataset(family.Options.model_validate(DATASET)).train[:4]

    def seeds(method: str, index: int, seed: int = 0) -> list[int]:
        engine: Any = Asked()
        collector = Collector(
            policy,
            engine,
            TextGrader(),
            training,
            seed=seed,
            stopwatch=Stopwatch(),  # type: ignore
        )
        with pytest.raises(StopIteration):
            collector.groups(
                make_method(method, training), problems, 1, index, draw=lambda n: problems[:n]
            )
        return [s for p in engine.prompts for s in p.seeds]

    first = seeds("rl_zero", 1)
    assert len(set(first)) == 12
    assert seeds("bridge", 1) == first  # common random numbers across methods
    assert set(seeds("rl_zero", 2)).isdisjoint(first)
    assert set(seeds("rl_zero", 1, seed=1)).isdisjoint(first)


def test_derived_seeds_depend_on_every_component_and_fit_the_generator() -> None:
    seeds = [
        derive_seed("a", 1, "b"),
        derive_seed("a", 1, "c"),
        derive_seed("a", 2, "b"),
        derive_seed("a", "1", "b"),
        derive_seed("b", 1, "a"),
        derive_seed("a1", "b"),
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= s < 2**63 for s in seeds)
    assert derive_seed("rollout", 0, "train/00001", 3) == 6669638507207035819


# -- prefixes (hybrid rows) ---------------------------------------------------------------------


def test_a_given_prefix_is_graded_with_the_rest_and_marked(base: Path) -> None:
    policy, training = load_policy(base), make_training(n=2, max_response_tokens=2)
    engine = NativeEngine(
        policy.model, end_token_ids=policy.end_token_ids, pad_token_id=policy.pad_token_id
    )
    seen: list[str] = []

    class Spy(TextGrader):
        def grade(self, items: Any) -> Any:
            seen.extend(item.text for item in items)
            return super().grade(items)

    collector = Collector(
        policy,
        engine,
        Spy(),
        training,
        seed=0,
        stopwatch=Stopwatch(),  # type: ignore
    )
    prefix = tuple(policy.completion_ids("\\boxed{ 7 }")[:-1])
    groups, _, _ = collector._draw([Request(PROBLEM, 2, prefix)], ("test",))
    for row in groups[0].rows:
        assert row.kind == "hybrid" and row.prefix_tokens == len(prefix)
        assert row.response_ids[: len(prefix)] == prefix
        assert len(row.sampled_logprobs) == len(row.response_ids) - len(prefix)
    assert all(text.startswith("\\boxed{ 7 }") for text in seen)

    spent = collector.tokens_generated, collector.tokens_prefilled
    whole = tuple(policy.completion_ids("\\boxed{ 7 }"))
    groups, entropies, _ = collector._draw([Request(PROBLEM, 2, whole)], ("test",))
    assert [(row.response_ids, row.prefix_tokens) for row in groups[0].rows] == [(whole, 4)] * 2
    assert not entropies and spent == (collector.tokens_generated, collector.tokens_prefilled)
    assert seen[-1] == "\\boxed{ 7 }" and not groups[0].rows[0].truncated


# -- refusals -----------------------------------------------------------------------------------


def one_sentence(error: pytest.ExceptionInfo[Exception]) -> str:
    text = str(error.value)
    assert "\n" not in text and text.endswith(".")
    return text


def test_a_dataset_without_demonstrations_is_one_sentence(base: Path, tmp_path: Path) -> None:
    spec = make_spec(base, "sft", dataset={"demonstrations": 0})
    with pytest.raises(RecordError) as error:
        train_run(spec, results=tmp_path, threads=1)
    assert "demonstrations" in one_sentence(error) and "sft" in str(error.value)


def test_rl_needs_no_demonstrations(base: Path, tmp_path: Path) -> None:
    spec = make_spec(base, "rl_zero", dataset={"demonstrations": 0})
    assert train_run(spec, results=tmp_path, threads=1) == "done"


def test_a_missing_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        train_run(make_spec(tmp_path / "nowhere", "sft"), results=tmp_path, threads=1)
    assert "nowhere" in one_sentence(error)


def test_what_does_not_fit_the_context_is_named(base: Path) -> None:
    policy = load_policy(base)
    long = Problem(
        id="train/7", question="find a", answer="1", difficulty=1, demonstration="a " * 200
    )
    with pytest.raises(ProblemError) as error:
        check_lengths(policy, [PROBLEM, long], max_response_tokens=6, context_tokens=96)
    assert "train/7" in one_sentence(error) and "96" in str(error.value)
    with pytest.raises(ProblemError, match="'p' needs"):
        check_lengths(policy, [PROBLEM], max_response_tokens=90, context_tokens=96)
    check_lengths(policy, [PROBLEM], max_response_tokens=60, context_tokens=96)
    shown = replace(PROBLEM, demonstration="\\boxed{ 7 }")
    check_lengths(policy, [shown], max_response_tokens=70, context_tokens=96)
    with pytest.raises(ProblemError, match="lower max_response_tokens"):
        # A rollout may follow as much of the demonstration as a method gives.
        check_lengths(
            policy, [shown], max_response_tokens=80, context_tokens=96, with_prefixes=True
        )


def test_a_problem_without_a_demonstration_is_named(base: Path) -> None:
    with pytest.raises(ProblemError, match="problem 'p' has no demonstration"):
        demonstration_row(load_policy(base), PROBLEM)


BAD_DATA = {
    "test question": ("replace", "is also question"),
    "empty gold": ("gold", "empty gold answer"),
    "duplicate id": ("id", "occurs twice"),
}


@pytest.fixture(params=BAD_DATA)
def bad_data(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The family yields a data set with one fault."""
    kind, sentence = BAD_DATA[request.param]
    family: Any = load_family("chains")
    sound = family.dataset(family.Options.model_validate(DATASET))
    train = list(sound.train)
    if kind == "replace":
        name = family.benchmark_names()[0]
        leaked = family.benchmark(name, family.Options.model_validate(DATASET))[0]
        question = leaked.question.upper().replace(" ", "  ")
        train[3] = Problem("train/x", question, leaked.answer, 2)
    elif kind == "gold":
        train[3] = Problem("train/x", "find a", " ", 2)
    else:
        train[3] = Problem(train[2].id, "find a", "1", 2)
    monkeypatch.setattr(
        type(family), "dataset", lambda self, o: Dataset(tuple(train), sound.validation)
    )
    yield sentence


def test_faulty_data_is_refused_before_training(base: Path, tmp_path: Path, bad_data: str) -> None:
    spec = make_spec(base, "rl_zero")
    with pytest.raises(ProblemError) as error:
        train_run(spec, results=tmp_path, threads=1)
    assert bad_data in one_sentence(error)
    assert not spec.folder(tmp_path).dynamics.exists()


@pytest.mark.parametrize("bad_data", ["test question"], indirect=True)
def test_a_named_benchmark_may_be_trained_on(base: Path, tmp_path: Path, bad_data: str) -> None:
    first, second = load_family("chains").benchmark_names()[:2]
    spec = make_spec(base, "rl_zero")
    with pytest.raises(ProblemError):
        train_run(replace(spec, train_on_benchmarks=(second,)), results=tmp_path, threads=1)
    named = replace(spec, train_on_benchmarks=(first,))
    assert train_run(named, results=tmp_path, threads=1) == "done"
    assert (named.train_hash, named.spec_hash) == (spec.train_hash, spec.spec_hash)


def test_a_sampler_with_other_weights_is_noticed(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Run._rollouts

    def stale(self: Run, step: int) -> Any:
        result = original(self, step)
        with torch.no_grad():
            for p in self.policy.parameters["base"]:
                p.mul_(1.5)
        return result

    monkeypatch.setattr(Run, "_rollouts", stale)
    with pytest.raises(RecordError, match="weight sync"):
        train_run(make_spec(base, "rl_zero"), results=tmp_path, threads=1)


def test_the_gap_of_an_honest_run_is_rounding(base: Path, tmp_path: Path) -> None:
    folder, _ = train(make_spec(base, "bridge", options={"beta_ratio": 20.0}), tmp_path)
    gaps = [line["sync_logprob_gap"] for line in read_lines(folder.dynamics)[1:]]
    assert any(gap is not None for gap in gaps)
    assert all(gap < 1e-5 for gap in gaps if gap is not None)
