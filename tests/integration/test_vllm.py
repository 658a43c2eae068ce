"""The real vLLM engine, in this process: what it samples is what the trainer trains.

Run by ``make test-vllm``; skipped where vLLM is not installed.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2Config

from bridge.engines.native import NativeEngine
from bridge.engines.vllm import VllmEngine
from bridge.evaluation.runner import evaluate_run
from bridge.models.checkpoint import Policy, load_policy
from bridge.models.tiny import build_model, build_tokenizer, save_base
from bridge.plan.grid import RunSpec
from bridge.run.loop import Run, train_run
from bridge.step.rollouts import Completion, Prompt
from bridge.step.weights import ADAPTER, WholeWeights
from bridge.store.records import RecordError, RunFolder, read_json
from bridge.store.seeds import derive_seed
from bridge.tasks.registry import load_family
from tests.fixtures.evaluation import finish
from tests.fixtures.evaluation import make_spec as make_evaluation_spec
from tests.fixtures.tiny_run import make_base, make_spec, read_lines

pytest.importorskip("vllm", reason="needs vLLM: run `make test-vllm`")
from vllm.tokenizers import get_tokenizer

pytestmark = pytest.mark.vllm

STARTED: list[VllmEngine] = []
"""An engine that is collected takes down the process group, under the others of the process too."""
LIMIT = 12
TEXTS = ("mod 10 : a = 3 + 4 ; find a", "find a", "mod 10 : a is 1 plus 2 , find a")


class Pair:
    """A policy under training and the engine that is to sample from it."""

    def __init__(self, folder: Path, **adapter: Any) -> None:
        self.folder = folder
        self.trained = WholeWeights(load_policy(folder), **adapter)
        self.policy: Policy = self.trained.sampler
        self.engine = VllmEngine(
            folder,
            end_token_ids=self.policy.end_token_ids,
            dtype=torch.float32,
            kv_cache_gib=0.1,
            trained=self.trained,
        )
        STARTED.append(self.engine)

    def prompts(self, samples: int = 4) -> list[Prompt]:
        return [
            Prompt(
                tuple(self.policy.prompt_ids(text)),
                tuple(derive_seed("test", i, s) for s in range(samples)),
            )
            for i, text in enumerate(TEXTS)
        ]

    def draw(
        self, prompts: list[Prompt] | None = None, temperature: float = 1.0, limit: int = LIMIT
    ) -> list[list[Completion]]:
        return self.engine.generate(
            prompts or self.prompts(), max_new_tokens=limit, temperature=temperature
        )

    @torch.no_grad()
    def gap(self, temperature: float = 1.0, prompts: list[Prompt] | None = None) -> float:
        """Largest difference between the engine's log-probs and a full pass of the trainer's."""
        prompts = prompts or self.prompts()
        largest = 0.0
        for prompt, drawn in zip(prompts, self.draw(prompts, temperature), strict=True):
            for completion in drawn:
                ids = torch.tensor([[*prompt.ids, *completion.ids]])
                logits = self.trained.model(input_ids=ids, use_cache=False).logits[0]
                logprobs = (logits[len(prompt.ids) - 1 : -1] / (temperature or 1.0)).log_softmax(-1)
                expected = logprobs[range(len(completion.ids)), list(completion.ids)]
                found = torch.tensor(completion.logprobs)
                largest = max(largest, float((expected - found).abs().max()))
        return largest

    @torch.no_grad()
    def move(self, group: str = "base", seed: int = 0) -> None:
        """Write other weights, as an update would."""
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.trained.parameters[group]:
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        self.trained.changed()


@pytest.fixture(scope="module", params=["qwen2", "Qwen2ForCausalLM", "llama"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base models of the suites, and one under the name of the released Qwen models."""
    # vLLM's attention on a CPU has no kernel for heads narrower than 32.
    folder = tmp_path_factory.mktemp(request.param) / "base"
    released = request.param == "Qwen2ForCausalLM"
    architecture = "qwen2" if released else request.param
    make_base(folder, architecture=architecture, hidden=64, layers=2, steps=60)
    if released:
        kept = {
            n: v for n, v in read_json(folder / "config.json").items() if hasattr(Qwen2Config(), n)
        }
        Qwen2Config(
            **kept | {"architectures": [request.param], "model_type": "qwen2"}
        ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pair(base: Path) -> Pair:
    return Pair(base)


# -- what is sampled ------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7, 0.0])
def test_logprobs_are_those_of_the_trainer(pair: Pair, temperature: float) -> None:
    assert pair.gap(temperature) < 1e-3


def test_greedy_answers_and_their_logprobs_are_those_of_the_native_engine(pair: Pair) -> None:
    native = NativeEngine(
        pair.policy.model,
        end_token_ids=pair.policy.end_token_ids,
        pad_token_id=pair.policy.pad_token_id,
    )
    prompts = pair.prompts(samples=1)
    ours = native.generate(prompts, max_new_tokens=LIMIT, temperature=0.0)
    for (a,), (b,) in zip(ours, pair.draw(prompts, temperature=0.0), strict=True):
        assert (a.ids, a.truncated) == (b.ids, b.truncated)
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-3)
        assert b.entropies is None


def test_the_seed_decides_and_nothing_else(pair: Pair) -> None:
    prompts = pair.prompts()
    drawn = pair.draw(prompts)
    assert pair.draw(prompts) == drawn
    ids = [[c.ids for c in cs] for cs in drawn]
    assert [[c.ids for c in cs] for cs in pair.draw(prompts[::-1])[::-1]] == ids
    alone = [pair.draw([Prompt(p.ids, (s,))])[0][0].ids for p in prompts[:1] for s in p.seeds]
    assert alone == ids[0]
    twins = pair.draw([Prompt(prompts[0].ids, (7, 7, *range(8, 16)))])[0]
    assert twins[0].ids == twins[1].ids and len({c.ids for c in twins}) > 2


def test_sampled_frequencies_are_those_of_the_whole_distribution(pair: Pair) -> None:
    """At the highest temperature that vLLM takes: a top-k or top-p would show at once."""
    n, temperature = 1500, 2.0
    prompt = Prompt(pair.prompts()[0].ids, tuple(derive_seed("f", i) for i in range(n)))
    drawn = torch.tensor([c.ids[0] for c in pair.draw([prompt], temperature, limit=1)[0]])
    with torch.no_grad():
        logits = pair.trained.model(input_ids=torch.tensor([prompt.ids])).logits[0, -1]
    expected = n * (logits / temperature).softmax(-1).double()
    counts = torch.bincount(drawn, minlength=len(expected))
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    freedom = len(expected) - 1
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5


def test_an_answer_ends_at_the_end_token_or_is_truncated(pair: Pair) -> None:
    end = pair.policy.end_token_ids[0]
    drawn = [c for limit in (3, 40) for cs in pair.draw(limit=limit) for c in cs]
    assert {c.truncated for c in drawn} == {True, False}
    assert all(c.truncated == (c.ids[-1] != end) and end not in c.ids[:-1] for c in drawn)
    whole = next(c for c in drawn if not c.truncated and len(c.ids) > 3)
    again = pair.draw(limit=len(whole.ids))
    assert any(c.ids == whole.ids and not c.truncated for cs in again for c in cs)


def test_a_prompt_without_room_for_its_answer_is_refused(pair: Pair) -> None:
    with pytest.raises(RecordError, match=r"context is 96; lower max_response_tokens") as caught:
        pair.draw(limit=90)
    assert "\n" not in str(caught.value)


def test_the_checkpoint_s_generation_settings_change_nothing(
    pair: Pair, tmp_path: Path, base: Path
) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "copy"))
    path = folder / "generation_config.json"
    settings = {"top_k": 1, "top_p": 0.1, "repetition_penalty": 9.0, "temperature": 0.1}
    settings["do_sample"] = True
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    assert Pair(folder).draw() == Pair(base).draw()


def test_but_its_end_tokens_end_answers(pair: Pair, tmp_path: Path, base: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "copy"))
    path = folder / "generation_config.json"
    whole = [c for cs in Pair(base).draw() for c in cs]
    word = next(c.ids[1] for c in whole if len(c.ids) > 3)
    both = {"eos_token_id": [pair.policy.end_token_ids[0], word]}
    path.write_text(json.dumps(json.loads(path.read_text()) | both))
    stopped = [c for cs in Pair(folder).draw() for c in cs]
    assert any(word in c.ids[:-1] for c in whole)
    for long, short in zip(whole, stopped, strict=True):
        n = long.ids.index(word) + 1 if word in long.ids else len(long.ids)
        assert short.ids == long.ids[:n]
        assert short.truncated == (long.truncated and word not in long.ids)


# -- pushed weights -------------------------------------------------------------------------------


def test_pushed_weights_are_sampled_from_and_only_then(pair: Pair) -> None:
    for seed in (1, 2):
        pair.move(seed=seed)
        assert pair.gap() > 0.1, "the engine must not share the trainer's storage"
        pair.engine.sync()
        assert pair.gap() < 1e-3


def test_the_adapter_is_merged_before_the_push(base: Path) -> None:
    pair = Pair(base, adapter=(4, 8, "all-linear"), shadow=True)
    pair.move(ADAPTER)
    assert pair.gap() > 1e-2
    pair.engine.sync()
    assert pair.gap() < 1e-3
    pair.move()
    with pair.trained.shadow_active():
        pair.engine.sync()
        assert pair.gap() < 1e-3
    assert pair.gap() > 0.1


def test_cached_prefixes_of_older_weights_are_not_used(tmp_path: Path) -> None:
    """Needs a prompt longer than a block of the cache, which a CPU makes 128 tokens long."""
    words = [f"w{i}" for i in range(50)]
    tokenizer = build_tokenizer(words, context_tokens=512)
    shape = {"hidden": 64, "layers": 2, "heads": 2, "context_tokens": 512, "seed": 1}
    model = build_model("qwen2", tokenizer=tokenizer, **shape)  # type: ignore[arg-type]
    save_base(model, tokenizer, tmp_path / "base")
    pair = Pair(tmp_path / "base")
    prompt = [Prompt(tuple(pair.policy.prompt_ids(" ".join(words * 8))), (1, 2))]
    assert len(prompt[0].ids) > 3 * 128
    assert pair.gap(prompts=prompt) < 1e-3
    pair.move()
    pair.engine.sync()
    assert pair.gap(prompts=prompt) < 1e-3


# -- whole runs -----------------------------------------------------------------------------------


def train(spec: RunSpec, results: Path) -> RunFolder:
    assert train_run(spec, results=results, threads=1) == "done"
    return spec.folder(results)


def spec_of(base: Path, method: str, **training: Any) -> RunSpec:
    return make_spec(base, method, engine="vllm", kv_cache_gib=0.1, temperature=1.3, **training)


@pytest.mark.parametrize("method", ["rl_zero", "bridge"])
def test_a_whole_run_trains_and_repeats(
    base: Path, method: str, tmp_path: Path, no_workers: None
) -> None:
    spec = spec_of(base, method)
    first, second = (train(spec, tmp_path / name) for name in ("a", "b"))
    for path in (lambda f: f.dynamics, lambda f: f.policy / "model.safetensors"):
        assert path(first).read_bytes() == path(second).read_bytes()
    steps = [line for line in read_lines(first.dynamics) if line["step"] > 0]
    gaps = [line["sync_logprob_gap"] for line in steps]
    assert len(gaps) == 3 and all(gap < 1e-3 for gap in gaps)
    assert all(line["entropy"] is None for line in steps)
    weights = [load_policy(f).model.state_dict() for f in (base, first.policy)]
    assert any(not torch.equal(weights[0][n], weights[1][n]) for n in weights[0])
    assert "vllm" in " ".join(json.loads(first.done.read_text())["versions"])


def test_a_run_that_was_stopped_ends_with_the_same_bytes(
    base: Path, tmp_path: Path, no_workers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(base, "rl_zero", probe_every=2)
    whole = train(spec, tmp_path / "whole")
    step = Run.step

    def dying(self: Run) -> dict[str, Any]:
        if self.counters.step == 2:
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "step", dying)
        train(spec, tmp_path / "stopped")
    stopped = train(spec, tmp_path / "stopped")
    assert stopped.dynamics.read_bytes() == whole.dynamics.read_bytes()
    weights = [(f.policy / "model.safetensors").read_bytes() for f in (whole, stopped)]
    assert weights[0] == weights[1]


def test_a_sync_that_is_skipped_ends_the_run_in_one_sentence(
    base: Path, tmp_path: Path, no_workers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    push, pushes = VllmEngine.sync, iter([True])

    def once(self: VllmEngine) -> None:
        if next(pushes, False):
            push(self)

    monkeypatch.setattr(VllmEngine, "sync", once)
    spec = spec_of(base, "rl_zero", lr_rl=0.05)
    with pytest.raises(
        RecordError, match=r"step 2: the sampler's log-probs differ .* sync\.$"
    ) as e:
        train_run(spec, results=tmp_path, threads=1)
    assert "\n" not in str(e.value)
    assert not spec.folder(tmp_path).done.exists()


# -- evaluation -----------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def wild(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large random weights: each prompt gets a text of its own, and no two tokens nearly tie."""
    tokenizer = build_tokenizer(load_family("chains").vocabulary(), context_tokens=128)
    shape = {"hidden": 64, "layers": 2, "heads": 2, "context_tokens": 128, "seed": 3}
    model = build_model(request.param, tokenizer=tokenizer, **shape)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(15.0)
    folder = tmp_path_factory.mktemp(request.param) / "wild"
    save_base(model, tokenizer, folder)
    return folder


def test_vllm_s_own_tokenizer_makes_our_ids(wild: Path) -> None:
    """What a user of ``vllm serve`` gets."""
    policy = load_policy(wild)
    tokenizer = get_tokenizer(str(wild), trust_remote_code=False)
    for text in TEXTS:
        prompt = policy.prompt(text)
        assert tokenizer(prompt, add_special_tokens=False)["input_ids"] == policy.prompt_ids(text)


def evaluated(engine: str, policy: Path, results: Path) -> tuple[list[dict[str, Any]], Any]:
    """Rows of answers.jsonl, and scores.json."""
    settings = {"max_response_tokens": 24, "n_samples": 3, "sampled_questions": 2}
    spec = make_evaluation_spec(engine=engine, kv_cache_gib=0.1, **settings)
    finish(spec, results, policy)
    evaluate_run(spec, results=results, threads=1)
    folder = spec.folder(results)
    return read_lines(folder.answers), json.loads(folder.scores.read_text())


def test_benchmarks_are_answered_as_by_the_hf_model(wild: Path, tmp_path: Path) -> None:
    theirs, their_scores = evaluated("hf", wild, tmp_path / "hf")
    ours, our_scores = evaluated("vllm", wild, tmp_path / "vllm")
    greedy = [r for r in ours if r["sample"] < 0]
    assert greedy == [r for r in theirs if r["sample"] < 0]
    # The comparison means something: answers differ, some end, some are cut.
    assert len({r["text"] for r in greedy}) > 10
    assert {r["truncated"] for r in greedy} == {True, False}
    keys = [[(r["question_id"], r["sample"]) for r in rows] for rows in (ours, theirs)]
    assert keys[0] == keys[1]
    texts: dict[str, set[str]] = {}
    for row in ours:
        if row["sample"] >= 0:
            texts.setdefault(row["question_id"], set()).add(row["text"])
    assert all(len(found) > 1 for found in texts.values())
    assert our_scores["decoding"]["engine"] == "vllm"
    assert our_scores["n_parameters"] == their_scores["n_parameters"]
    assert evaluated("vllm", wild, tmp_path / "again")[0] == ours
