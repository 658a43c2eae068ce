"""The native engine: what it reports about a token is what a full forward pass says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from bridge.engines.native import _COMPACT_BELOW, NativeEngine
from bridge.models.checkpoint import Policy, load_policy
from bridge.models.decoding import PlainDecoder
from bridge.models.sampling import draw
from bridge.step.rollouts import Completion, Prompt
from bridge.store.seeds import derive_seed
from tests.fixtures.tiny_run import load_double, make_base

LIMIT = 12


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / "base"
    return make_base(folder, architecture=request.param, layers=2, steps=20)


def engine_of(policy: Policy) -> NativeEngine:
    return NativeEngine(
        policy.model, end_token_ids=policy.end_token_ids, pad_token_id=policy.pad_token_id
    )


def prompts_of(policy: Policy, n: int = 4, samples: int = 3) -> list[Prompt]:
    """Prompts of different lengths."""
    texts = [
        "mod 10 : a = 3 + 4 ; find a",
        "find a",
        "mod 10 : a = 3 + 4 ; b = a * 2 ; c = b - 5 ; find c",
        "mod 10 : a is 1 plus 2 , find a",
    ]
    return [
        Prompt(
            tuple(policy.prompt_ids(text)), tuple(derive_seed("test", i, s) for s in range(samples))
        )
        for i, text in enumerate(texts[:n])
    ]


def generate(
    policy: Policy, prompts: Sequence[Prompt], *, temperature: float = 1.0, limit: int = LIMIT
) -> list[list[Completion]]:
    return engine_of(policy).generate(prompts, max_new_tokens=limit, temperature=temperature)


@torch.no_grad()
def full_pass(policy: Policy, prompt: Prompt, completion: Completion, temperature: float) -> Tensor:
    """Log-softmax [tokens, vocabulary] at each sampled position, alone and without padding."""
    ids = torch.tensor([[*prompt.ids, *completion.ids]])
    logits = policy.model(input_ids=ids, use_cache=False).logits[0]
    return (logits[len(prompt.ids) - 1 : -1] / temperature).log_softmax(-1)


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
@pytest.mark.parametrize(
    ("load", "tolerance"), [(load_policy, 1e-5), (load_double, 1e-12)], ids=["float32", "float64"]
)
def test_logprobs_and_entropies_are_those_of_a_full_pass(
    base: Path, load: Callable[[Path], Policy], tolerance: float, temperature: float
) -> None:
    policy = load(base)
    prompts = prompts_of(policy)
    for prompt, drawn in zip(
        prompts, generate(policy, prompts, temperature=temperature), strict=True
    ):
        for completion in drawn:
            expected = full_pass(policy, prompt, completion, temperature)
            rows = torch.arange(len(completion.ids))
            logprobs = expected[rows, torch.tensor(completion.ids)]
            entropies = -(expected.exp() * expected).sum(-1)
            assert completion.logprobs == pytest.approx(logprobs.tolist(), abs=tolerance)
            assert completion.entropies == pytest.approx(entropies.tolist(), abs=tolerance)


def test_a_completion_does_not_depend_on_its_neighbours_or_on_order(base: Path) -> None:
    policy = load_double(base)
    prompts = prompts_of(policy)
    together = generate(policy, prompts)
    alone = [generate(policy, [prompt])[0] for prompt in prompts]
    reversed_ = generate(policy, prompts[::-1])[::-1]
    single = [[generate(policy, [Prompt(p.ids, (s,))])[0][0] for s in p.seeds] for p in prompts]
    for other in (alone, reversed_, single):
        assert [[c.ids for c in cs] for cs in other] == [[c.ids for c in cs] for cs in together]


def test_the_seed_decides_the_completion(base: Path) -> None:
    policy = load_policy(base)
    prompts = prompts_of(policy)
    assert generate(policy, prompts) == generate(policy, prompts)
    twins = [Prompt(prompts[0].ids, (7, 7, 8, 9, 10, 11))]
    drawn = [c.ids for c in generate(policy, twins)[0]]
    assert drawn[0] == drawn[1] and len(set(drawn)) > 1


def test_greedy_is_the_librarys_greedy(base: Path) -> None:
    policy = load_double(base)
    for prompt in prompts_of(policy, samples=1):
        ours = generate(policy, [prompt], temperature=0.0)[0][0]
        theirs = policy.model.generate(
            torch.tensor([prompt.ids]), do_sample=False, max_new_tokens=LIMIT
        )
        assert list(ours.ids) == theirs[0, len(prompt.ids) :].tolist()


def test_greedy_in_a_padded_batch_is_greedy_alone(base: Path) -> None:
    policy = load_double(base)
    prompts = prompts_of(policy, samples=1)
    together = generate(policy, prompts, temperature=0.0)
    assert [c[0].ids for c in together] == [
        generate(policy, [p], temperature=0.0)[0][0].ids for p in prompts
    ]


def test_samples_share_one_prefill_and_finished_rows_leave(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load_policy(base)
    prefills: list[tuple[int, ...]] = []
    rows: list[int] = []

    class Counting(PlainDecoder):
        def start(self, ids: Tensor) -> Tensor:
            prefills.append(tuple(ids.shape))
            return super().start(ids)

        def step(self, tokens: Tensor) -> Tensor:
            rows.append(len(tokens))
            return super().step(tokens)

    monkeypatch.setattr("bridge.engines.native.decoder_of", lambda model: Counting)
    prompts = prompts_of(policy, n=2, samples=8)
    drawn = generate(policy, prompts)
    lengths = [len(c.ids) for cs in drawn for c in cs]
    assert prefills == [(2, max(len(p.ids) for p in prompts))]
    # Step t is for the rows that are longer than t tokens; few others run along.
    running = [sum(n > t for n in lengths) for t in range(1, max(lengths))]
    assert len(rows) == len(running) and rows[-1] < 16
    for n, m in zip(rows, running, strict=True):
        assert m <= n and (n == m or m >= _COMPACT_BELOW * n)


def test_truncated_means_that_the_limit_ended_it(base: Path) -> None:
    policy = load_policy(base)
    cut = [c for cs in generate(policy, prompts_of(policy), limit=3) for c in cs]
    assert all(c.truncated == (c.ids[-1] != policy.end_token_ids[0]) for c in cut)
    assert all(len(c.ids) == 3 for c in cut if c.truncated) and any(c.truncated for c in cut)
    whole = [c for cs in generate(policy, prompts_of(policy), limit=40) for c in cs]
    ended = [c for c in whole if not c.truncated]
    assert ended and all(c.ids.count(policy.end_token_ids[0]) == 1 for c in ended)


def test_an_end_at_the_last_allowed_token_is_not_truncated(base: Path) -> None:
    policy = load_policy(base)
    prompt = prompts_of(policy, n=1, samples=8)
    ended = [c for c in generate(policy, prompt, limit=40)[0] if not c.truncated]
    exact = len(ended[0].ids)
    again = generate(policy, prompt, limit=exact)[0]
    assert any(len(c.ids) == exact and not c.truncated for c in again)


def test_each_prompt_gets_as_many_samples_as_seeds(base: Path) -> None:
    policy = load_policy(base)
    first, second, third, _ = prompts_of(policy)
    prompts = [
        Prompt(first.ids, (1,)),
        Prompt(second.ids, (1, 2, 3, 4)),
        Prompt(third.ids, (5, 6)),
    ]
    drawn = generate(policy, prompts)
    assert [len(cs) for cs in drawn] == [1, 4, 2]
    assert [c.ids for c in drawn[1]] == [c.ids for c in generate(policy, prompts[1:2])[0]]


# -- the draw -----------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_sampled_frequencies_are_those_of_the_softmax(temperature: float) -> None:
    n = 20_000
    logits = torch.tensor([0.3, -1.0, 1.5, 0.0, -2.0])
    generator = torch.Generator().manual_seed(11)
    token, logprob, _ = draw(logits.expand(n, -1), torch.rand(n, generator=generator), temperature)
    p = (logits / temperature).softmax(-1)
    counts = torch.bincount(token, minlength=len(p)).double()
    chi_square = float(((counts - n * p) ** 2 / (n * p)).sum())
    assert chi_square < 18.47  # 99.9 % point for 4 degrees of freedom; the seed is fixed
    assert torch.allclose(logprob, p.log()[token], atol=1e-6)


def test_engine_frequencies_are_those_of_the_model(base: Path) -> None:
    """The first token over many seeds, through the engine."""
    policy = load_policy(base)
    prompt = Prompt(prompts_of(policy)[0].ids, tuple(derive_seed("f", i) for i in range(3000)))
    drawn = [c.ids[0] for c in generate(policy, [prompt], temperature=3.0, limit=1)[0]]
    with torch.no_grad():
        logits = policy.model(input_ids=torch.tensor([prompt.ids])).logits[0, -1]
    p = (logits / 3.0).softmax(-1).double()
    counts = Counter(drawn)
    chi_square = sum(
        (counts[i] - 3000 * float(q)) ** 2 / (3000 * float(q)) for i, q in enumerate(p)
    )
    freedom = len(p) - 1
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5


def test_engine_frequencies_are_those_of_generate(base: Path) -> None:
    """The third token: two samples of one distribution, by a chi-square test of both counts."""
    policy, n = load_policy(base), 2000
    prompt = Prompt(prompts_of(policy)[0].ids, tuple(derive_seed("g", i) for i in range(n)))
    ours = Counter(
        c.ids[2] if len(c.ids) == 3 else None
        for c in generate(policy, [prompt], temperature=2.0, limit=3)[0]
    )
    torch.manual_seed(5)
    rows = policy.model.generate(
        torch.tensor([prompt.ids]),
        do_sample=True,
        temperature=2.0,
        top_k=0,
        top_p=1.0,
        num_return_sequences=n,
        max_new_tokens=3,
    )[:, len(prompt.ids) :].tolist()
    ends = set(policy.end_token_ids)
    theirs = Counter(None if ends & set(row[:2]) else row[2] for row in rows)
    chi_square = sum((ours[i] - theirs[i]) ** 2 / (ours[i] + theirs[i]) for i in {*ours, *theirs})
    freedom = len({*ours, *theirs}) - 1
    assert freedom > 10
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
def test_a_token_of_probability_zero_is_never_drawn(uniform: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2000, 30, generator=generator)
    logits[:, [0, -1]] = -torch.inf
    token, logprob, entropy = draw(logits, torch.full((2000,), uniform), 1.0)
    assert set(token.tolist()).isdisjoint({0, 29})
    assert torch.isfinite(logprob).all() and torch.isfinite(entropy).all()


def test_logits_that_are_not_numbers_are_passed_on_not_hidden() -> None:
    token, logprob, _ = draw(torch.full((2, 5), torch.nan), torch.tensor([0.2, 0.9]), 1.0)
    assert torch.isnan(logprob).all() and (token < 5).all()


def test_sync_asks_for_the_trainers_weights() -> None:
    asked: list[int] = []
    model: Any = SimpleNamespace()
    engine = NativeEngine(model, end_token_ids=[0], pad_token_id=0, refresh=lambda: asked.append(1))
    engine.sync()
    assert asked == [1]
    NativeEngine(model, end_token_ids=[0], pad_token_id=0).sync()
