"""Hinted decoding: what a token is drawn from, which rewrites are learnt, what it reduces to."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bridge.engines.native import NativeEngine
from bridge.methods import rewriting
from bridge.methods.hinted_decoding import HintedDecoding
from bridge.methods.hints import hinted_prompt
from bridge.methods.rewriting import BOX, Mixture, rewrite
from bridge.models.checkpoint import Policy, load_policy
from bridge.models.sampling import nucleus, uniforms
from bridge.plan.questions import checked_dataset
from bridge.step.rollouts import Prompt
from bridge.step.rows import Row, demonstration_row
from bridge.store.records import RecordError
from bridge.store.schema import ConfigError
from bridge.tasks.base import Problem, ProblemError
from tests.fixtures.method_runs import (
    assert_same_run,
    curve,
    direction,
    flat_gradient,
    relative_distance,
    row_distributions,
    row_logprobs,
    same_weights,
    train,
)
from tests.fixtures.tiny_run import (
    TextGrader,
    load_double,
    make_base,
    make_method,
    make_options,
    make_spec,
)

pytestmark = pytest.mark.usefixtures("no_workers")

NAME, TEMPLATE = "hinted_decoding", "{question} ; {demonstration}"
LIMIT = 14
PLAIN = 1e30
"""A beta with which every choice counts as open."""
OF_SFT = ("demonstration_loss", "grad_norm", "demo_loss_heldout", "rl_loss", "stage")

Pairs = list[tuple[tuple[int, ...], tuple[int, ...]]]


def problems(n: int = 8) -> list[Problem]:
    """With demonstrations of three lengths."""
    out = []
    for i in range(n):
        shown = "a = 3 + 4 = 7 ; " * (i % 3) + f"\\boxed{{ {i % 10} }}"
        question = f"mod 10 : a = {i % 10} + 4 ; find a"
        out.append(Problem(f"p{i}", question, str(i % 10), 1, demonstration=shown))
    return out


def pairs_of(policy: Policy, template: str = TEMPLATE, n: int = 8) -> Pairs:
    """(hinted, plain) prompts."""
    return [
        (
            hinted_prompt(policy, template, p, p.demonstration or ""),
            tuple(policy.prompt_ids(p.question)),
        )
        for p in problems(n)
    ]


def sampled(policy: Policy, prompts: Sequence[tuple[int, ...]], temperature: float) -> list[Any]:
    """What the native engine draws for the same prompts and seeds."""
    engine = NativeEngine(
        policy.model, end_token_ids=policy.end_token_ids, pad_token_id=policy.pad_token_id
    )
    asked = [Prompt(ids, (seed,)) for seed, ids in enumerate(prompts)]
    drawn = engine.generate(asked, max_new_tokens=LIMIT, temperature=temperature)
    return [completions[0].ids for completions in drawn]


def rewritten(policy: Policy, pairs: Pairs, beta: float, top_p: float = 1.0) -> list[Any]:
    return rewrite(policy, pairs, range(len(pairs)), Mixture(beta, 0.9, top_p), LIMIT)


def up_to_box(policy: Policy, ids: Sequence[int]) -> list[int]:
    n = next((i for i in range(len(ids)) if BOX in policy.text(list(ids[:i]))), len(ids))
    return list(ids[:n])


# -- what a token is drawn from -----------------------------------------------------------------


@pytest.fixture
def streams() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    p, q = (3 * torch.randn(50, 12, generator=generator, dtype=torch.float64) for _ in range(2))
    return p, q


ALL = torch.ones(50, dtype=torch.bool)


@pytest.mark.parametrize("beta", [0.3, 1.0, 3.0])
def test_the_mixture_is_the_written_one(streams: tuple[Tensor, Tensor], beta: float) -> None:
    found = Mixture(beta, 1.0, 1.0).logits(*streams, ALL).softmax(-1)
    shares = []
    for row, p, q in zip(found, *(x.softmax(-1) for x in streams), strict=True):
        entropy = -sum(float(x) * math.log(float(x)) for x in p)
        share = min(max(beta * entropy / math.log(12), 0.0), 1.0)
        product = p ** (1 - share) * q**share
        assert torch.allclose(row, product / product.sum(), atol=1e-12)
        shares.append(share)
    assert any(0 < share < 1 for share in shares)


def test_the_ends_of_the_mixture_are_the_two_streams(streams: tuple[Tensor, Tensor]) -> None:
    """To the last bit."""
    p, q = (x.log_softmax(-1) for x in streams)
    assert torch.equal(Mixture(0.0, 1.0, 1.0).logits(*streams, ALL), p)
    assert torch.equal(Mixture(PLAIN, 1.0, 1.0).logits(*streams, ALL), q)
    assert torch.equal(Mixture(0.0, 1.0, 1.0).logits(*streams, ~ALL), q)
    assert torch.equal(Mixture(0.7, 1.0, 1.0).logits(streams[0], streams[0], ALL), p)


def test_the_nucleus_is_the_smallest_set_with_the_mass() -> None:
    logits = torch.tensor([[0.1, 0.5, 0.15, 0.25]]).log()
    for top_p, inside in ((0.4, {1}), (0.6, {1, 3}), (0.76, {1, 2, 3}), (0.95, {0, 1, 2, 3})):
        kept = nucleus(logits, top_p)[0]
        assert {i for i in range(4) if kept[i] > -torch.inf} == inside
    assert torch.equal(nucleus(logits, 1.0), logits)


# -- the decoder --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rough(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model whose answers have many lengths and depend on the prompt."""
    return make_base(tmp_path_factory.mktemp("rough") / "base", layers=2, steps=20)


def test_without_beta_the_hinted_prompt_writes_up_to_the_box(rough: Path) -> None:
    policy = load_policy(rough)
    pairs = pairs_of(policy)
    ours, theirs = rewritten(policy, pairs, 0.0), sampled(policy, [p for p, _ in pairs], 0.9)
    assert [up_to_box(policy, x) for x in ours] == [up_to_box(policy, x) for x in theirs]
    assert any(BOX in policy.text(list(x)) for x in ours)


def test_with_every_choice_open_the_plain_prompt_writes(rough: Path) -> None:
    policy = load_policy(rough)
    pairs = pairs_of(policy)
    ours = rewritten(policy, pairs, PLAIN)
    assert ours == sampled(policy, [q for _, q in pairs], 0.9)
    assert ours != rewritten(policy, pairs, 0.0)


@pytest.mark.parametrize("beta", [0.0, 1.0, PLAIN])
def test_with_the_same_prompt_twice_it_is_plain_sampling(rough: Path, beta: float) -> None:
    policy = load_policy(rough)
    pairs = pairs_of(policy, "{question}")
    assert all(hinted == plain for hinted, plain in pairs)
    assert rewritten(policy, pairs, beta) == sampled(policy, [q for _, q in pairs], 0.9)


@pytest.mark.parametrize(("at_once", "beta"), [(64, 0.0), (64, 1.0), (3, 0.0)])
def test_each_token_follows_from_two_full_passes(
    rough: Path, monkeypatch: pytest.MonkeyPatch, at_once: int, beta: float
) -> None:
    """Whatever ended beside it, and after the box from the plain one alone."""
    monkeypatch.setattr(rewriting, "ROWS_AT_ONCE", at_once)
    policy, mixture = load_double(rough), Mixture(beta, 3.0, 0.9)
    pairs = pairs_of(policy, n=48)
    answers = rewrite(policy, pairs, range(len(pairs)), mixture, LIMIT)
    boxed = [len(up_to_box(policy, answer)) for answer in answers]
    first_end = min(map(len, answers))
    assert any(first_end < n < len(answer) for n, answer in zip(boxed, answers, strict=True))
    for seed, (pair, answer, n_before) in enumerate(zip(pairs, answers, boxed, strict=True)):
        rows = [Row("rollout", problems()[0], prompt, answer) for prompt in pair]
        hinted, plain = (row_distributions(policy, row) for row in rows)
        is_hinted = torch.arange(len(answer)) < n_before
        numbers = uniforms([seed], LIMIT)[0, : len(answer)]
        assert mixture.draw(hinted, plain, is_hinted, numbers).tolist() == list(answer)
        ends = [i for i, token in enumerate(answer) if token in policy.end_token_ids]
        assert ends == [len(answer) - 1] or (not ends and len(answer) == LIMIT)


def test_rewrites_are_closer_to_what_the_model_would_write(rough: Path) -> None:
    """The point of it: log p + H, whose mean over own samples is 0, is higher than before."""
    policy = load_policy(rough)

    def phi(answers: Sequence[tuple[int, ...]]) -> float:
        found = []
        for (_, plain), answer in zip(pairs, answers, strict=True):
            log_p = row_distributions(policy, Row("rollout", problems()[0], plain, answer))
            own = log_p.gather(1, torch.tensor(answer)[:, None])[:, 0]
            found.append(own + torch.special.entr(log_p.exp()).sum(-1))
        return torch.cat(found).mean().item()

    pairs = pairs_of(policy)
    shown = [demonstration_row(policy, p).response_ids for p in problems()]
    assert phi(rewritten(policy, pairs, 3.0)) > phi(shown) + 0.5


# -- which rewrites are learnt ------------------------------------------------------------------


def learning(policy: Policy, texts: Sequence[str], end: bool = True, **options: Any) -> Any:
    """A method whose rewrites are these texts, with its problems."""
    method = make_method(NAME, **options)
    assert isinstance(method, HintedDecoding)
    method.policy, method.grader = policy, TextGrader()
    pool = problems(len(texts))
    ids = [tuple(policy.completion_ids(text)) for text in texts]
    answers = ids if end else [x[:-1] for x in ids]
    method._learn(pool, {p.id: x for p, x in zip(pool, answers, strict=True)})
    return method, pool


MIXED = ("\\boxed{ 0 }", "\\boxed{ 2 }", "find", "\\boxed{ 5 }", "\\boxed{ 1 }", "a")
"""Those of problems 0 and 3 are right: an even answer is where an even one is asked for."""


def test_what_the_verifier_refuses_is_replaced_by_what_it_accepts(base: Path) -> None:
    policy = load_policy(base)
    method, pool = learning(policy, MIXED)
    asked = [demonstration_row(policy, problem) for problem in pool]
    rows = method.rows((), asked, 1)
    learnt = Counter(policy.text(list(row.response_ids)) for row in rows)
    assert learnt == {"\\boxed{ 0 }": 3, "\\boxed{ 5 }": 3}  # as often as each other
    assert all(row.prompt_ids == tuple(policy.prompt_ids(row.problem.question)) for row in rows)
    assert [rows[i].problem for i in (0, 3)] == [pool[0], pool[3]]
    assert {row.problem.id for row in rows} == {"p0", "p3"}
    assert method.scalars() == {"rewrites_kept_share": pytest.approx(2 / 6)}


def test_unverified_every_rewrite_that_has_ended_is_learnt(base: Path) -> None:
    policy = load_policy(base)
    method, pool = learning(policy, MIXED, verify=False)
    rows = method.rows((), [demonstration_row(policy, problem) for problem in pool], 1)
    assert [row.problem for row in rows] == pool and method.kept_share == 1.0


@pytest.mark.parametrize("verify", [True, False])
def test_what_was_cut_is_never_learnt(base: Path, verify: bool) -> None:
    with pytest.raises(ProblemError, match=r"^none of the 2 rewritten .* verify to false\.$"):
        learning(load_policy(base), ("\\boxed{ 0 }", "\\boxed{ 1 }"), end=False, verify=verify)


def test_the_gradient_is_that_of_the_written_loss(base: Path) -> None:
    """- mean log p over the tokens of the rewrites, not of the demonstrations."""
    policy = load_double(base)
    method, pool = learning(policy, ("a = 3 ; \\boxed{ 0 }", "\\boxed{ 1 }", "\\boxed{ 8 }"))
    asked = [demonstration_row(policy, problem) for problem in pool]
    found = direction(policy, method, (), asked)
    texts = ("a = 3 ; \\boxed{ 0 }", "\\boxed{ 1 }", "\\boxed{ 8 }")
    own = [
        row_logprobs(policy, replace(row, response_ids=tuple(policy.completion_ids(text))))
        for row, text in zip(asked, texts, strict=True)
    ]
    expected = flat_gradient(policy, -torch.cat(own).mean())
    assert relative_distance(found, expected) < 1e-9


# -- runs ---------------------------------------------------------------------------------------


def test_with_the_demonstrations_as_rewrites_it_is_cold_start(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, and with its own rewrites it is not."""
    stages = {"sft_steps": 2, "rl_steps": 2}
    cold = train(make_spec(base, "cold_start", options=stages), tmp_path)
    options = make_options(NAME, verify=False, **stages)
    own = train(make_spec(base, NAME, label="own", options=options), tmp_path / "own")
    assert not same_weights(own, cold)
    pool = checked_dataset(make_spec(base, NAME, options=options)).demonstrations

    def copied(policy: Policy, *rest: Any) -> list[tuple[int, ...]]:
        return [demonstration_row(policy, problem).response_ids for problem in pool]

    monkeypatch.setattr(rewriting, "rewrite", copied)
    ours = train(make_spec(base, NAME, options=options), tmp_path)
    assert_same_run(ours, cold, *OF_SFT)


def test_demonstrations_are_rewritten_once_for_all_seeds(base: Path, tmp_path: Path) -> None:
    def columns(label: str, seed: int = 0, **options: Any) -> set[Path]:
        chosen = make_options(NAME, 1, **options)
        spec = make_spec(base, NAME, label=label, seed=seed, options=chosen)
        return set(train(spec, tmp_path).columns().glob("*.safetensors"))

    first = columns("first")
    assert columns("first", seed=1) == columns("unverified", verify=False) == first
    assert len(first) == 1
    others = [
        {"beta": 1.0},
        {"temperature": 0.5},
        {"top_p": 0.5},
        {"teacher_template": "{question}"},
    ]
    for n, other in enumerate(others, 2):
        assert len(columns(f"other_{n}", **other)) == n


def test_what_the_rewriting_read_is_counted(base: Path, tmp_path: Path) -> None:
    spec = make_spec(base, NAME, options=make_options(NAME, rl_steps=0))
    folder = train(spec, tmp_path)
    (kept,) = map(load_file, folder.columns().glob("*.safetensors"))
    policy = load_policy(base)
    expected = 0
    for problem in checked_dataset(spec).demonstrations:
        shown = hinted_prompt(policy, TEMPLATE, problem, problem.demonstration or "")
        expected += len(shown) + len(policy.prompt_ids(problem.question))
        expected += 2 * len(kept[problem.id])
    done = json.loads(folder.done.read_text())
    trained = 6 * done["n_parameters"] * done["tokens"]["trained"]
    assert done["flops"]["train"] - trained == 2 * done["n_parameters"] * expected
    (share, *_), *_ = curve(folder, "rewrites_kept_share")[1:]
    assert 0 < share <= 1


# -- bad input ----------------------------------------------------------------------------------


def test_a_template_without_the_question_is_refused() -> None:
    make_method(NAME).check("here")
    with pytest.raises(ConfigError, match=r"^here: options\.teacher_template must hold \{question"):
        make_method(NAME, teacher_template="{demonstration}").check("here")


def test_the_checks_of_cold_start_are_made_too() -> None:
    options = {"sft_steps": 100, "rl_steps": 10, "budget": "equal_time"}
    with pytest.raises(ConfigError, match=r"^here: no time is left for RL"):
        make_method(NAME, **options).check("here")


def test_a_prompt_is_never_cut(base: Path, tmp_path: Path) -> None:
    options = make_options(NAME, teacher_template="{question} ; {demonstration} " * 3)
    with pytest.raises(ProblemError, match=r"^problem '.*' needs \d+ tokens .* is 96; .*\.$"):
        train(make_spec(base, NAME, options=options), tmp_path)


def test_a_data_set_without_demonstrations_is_refused(base: Path, tmp_path: Path) -> None:
    spec = make_spec(base, NAME, dataset={"demonstrations": 0})
    with pytest.raises(RecordError, match="needs demonstrations, but dataset"):
        train(spec, tmp_path)


def test_rewrites_must_end_in_the_length_of_a_rollout(base: Path, tmp_path: Path) -> None:
    spec = make_spec(base, NAME, max_response_tokens=1)
    with pytest.raises(ProblemError, match="none of the 10 rewritten demonstrations is right"):
        train(spec, tmp_path)
