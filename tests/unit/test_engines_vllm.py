"""What the vLLM engine asks of vLLM; the real one is in ``tests/integration/test_vllm.py``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from bridge.engines.vllm import VllmEngine
from bridge.run.state import SYNC_GAP_LIMIT, _check_sync_gap
from bridge.step.rollouts import Prompt
from bridge.store.records import RecordError
from bridge.store.settings import EvaluationConfig
from tests.fixtures.tiny_run import make_training

END = 3
SCORE = -2.0
"""Log-prob of every token, the trainer's as well."""
Start = Callable[..., tuple[VllmEngine, "Recorder"]]


class Recorder:
    """Stands for ``vllm.LLM``: answers each request with its seed, and writes down every call."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.model_config = SimpleNamespace(max_model_len=20)
        self.calls: list[Any] = []
        self.params: list[Any] = []
        self.empties = True
        self.scores = SCORE
        shutdown = SimpleNamespace(detach=lambda: self.calls.append("stays"))
        self.llm_engine = SimpleNamespace(engine_core=SimpleNamespace(_finalizer=shutdown))

    def generate(self, prompts: Any, params: Any, use_tqdm: bool) -> list[Any]:
        assert not use_tqdm
        self.calls.append("generate")
        if not isinstance(params, list):
            return []
        if getattr(params[0], "prompt_logprobs", None) is not None:
            ids = prompts[0]["prompt_token_ids"]
            scored = [None, *({token: _logprob(self.scores)} for token in ids[1:])]
            return [SimpleNamespace(prompt_logprobs=scored)]
        self.params = params
        return [
            SimpleNamespace(
                outputs=[
                    SimpleNamespace(
                        token_ids=[p.seed, END],
                        logprobs=[{p.seed: _logprob(-0.5)}, {END: _logprob(-0.25)}],
                        finish_reason="length" if p.seed % 2 else "stop",
                    )
                ]
            )
            for p in params
        ]

    def reset_prefix_cache(self) -> bool:
        self.calls.append("empty cache")
        return self.empties

    def collective_rpc(self, method: str, kwargs: Any) -> None:
        self.calls.append((method, list(kwargs["weights_iterator"])))

    def apply_model(self, function: Any) -> None:
        self.calls.append(function.__name__)

    def sleep(self, level: int) -> None:
        self.calls.append(f"sleep {level}")

    def wake_up(self, tags: list[str]) -> None:
        self.calls.append(f"wake {tags[0]}")


class Trained:
    """Stands for weights under training."""

    def __init__(self, ranks: int) -> None:
        self.ranks = SimpleNamespace(size=ranks)
        model = SimpleNamespace(device=torch.device("cpu"), dtype=torch.bfloat16)
        self.sampler = SimpleNamespace(model=model, prompt_ids=lambda text: [1, 2, 4])

    def gathered(self) -> Iterator[tuple[str, torch.Tensor]]:
        return iter([("w", torch.ones(1))])

    def score(self, ids: torch.Tensor, targets: torch.Tensor, temperature: float) -> torch.Tensor:
        assert ids[:, 1:].equal(targets) and temperature == 1.0
        return torch.full(targets.shape, SCORE)


def _logprob(value: float) -> Any:
    return SimpleNamespace(logprob=value)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start an engine on the recorder, as if with or without a GPU."""
    fake: Any = ModuleType("vllm")
    fake.LLM, fake.SamplingParams, fake.TokensPrompt = Recorder, SimpleNamespace, dict
    monkeypatch.setitem(sys.modules, "vllm", fake)
    for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_NO_USAGE_STATS", "VLLM_LOGGING_LEVEL"):
        monkeypatch.setenv(name, "")

    def make(
        *, cuda: bool = False, trained: bool = True, ranks: int = 1
    ) -> tuple[VllmEngine, Recorder]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        engine = VllmEngine(
            Path("base"),
            end_token_ids=[END],
            dtype=torch.bfloat16,
            kv_cache_gib=0.5,
            trained=Trained(ranks) if trained else None,  # type: ignore[arg-type]
        )
        return engine, engine._llm

    with torch._dynamo.config.patch(disable=False):
        yield make


PUSH = [("reload_weights", [("w", torch.ones(1))]), "_repack_head"]
COMPARED = "generate"


def draw(engine: VllmEngine, limit: int = 4, temperature: float = 0.7) -> Any:
    prompts = [Prompt((1, 2), (10, 11)), Prompt((5,), (12,))]
    return engine.generate(prompts, max_new_tokens=limit, temperature=temperature)


def test_the_engine_samples_the_whole_distribution_with_one_seed_per_sample(start: Start) -> None:
    engine, vllm = start()
    drawn = draw(engine)
    assert [p.seed for p in vllm.params] == [10, 11, 12]
    for params in vllm.params:
        assert (params.temperature, params.top_p, params.top_k, params.max_tokens) == (0.7, 1, 0, 4)
        assert params.ignore_eos and params.stop_token_ids == [END] and params.logprobs == 0
    assert vllm.options["generation_config"] == "vllm"
    assert vllm.options["logprobs_mode"] == "processed_logprobs"
    assert [[c.ids for c in cs] for cs in drawn] == [[(10, END), (11, END)], [(12, END)]]
    assert [[c.truncated for c in cs] for cs in drawn] == [[False, True], [False]]
    assert drawn[0][0].logprobs == (-0.5, -0.25) and drawn[0][0].entropies is None


def test_weights_are_pushed_at_the_start_and_at_each_sync(start: Start) -> None:
    engine, vllm = start()
    assert vllm.options["load_format"] == "dummy" and vllm.options["dtype"] == "bfloat16"
    assert vllm.calls == ["generate", *PUSH, COMPARED]
    engine.sync()
    draw(engine)
    pushed = [*PUSH, COMPARED]
    assert vllm.calls == ["generate", *pushed, *pushed, "empty cache", "generate"]


def test_without_a_trainer_the_checkpoint_s_weights_stay(start: Start) -> None:
    engine, vllm = start(cuda=True, trained=False)
    assert vllm.options["load_format"] == "safetensors"
    engine.sync()
    engine.sleep()
    assert vllm.calls == ["generate"]


def test_on_a_gpu_it_sleeps_until_it_is_needed_and_wakes_with_new_weights(start: Start) -> None:
    engine, vllm = start(cuda=True)
    assert vllm.options["enable_sleep_mode"] and not vllm.options["enforce_eager"]
    assert vllm.options["kv_cache_memory_bytes"] == 2**29
    assert vllm.options["gpu_memory_utilization"] == 0.01  # the trainer is on the device too
    vllm.calls.clear()
    for act in (engine.sleep, engine.sleep, engine.sync):
        act()
    assert vllm.calls == ["sleep 2"], "weights that are discarded need no push before the wake-up"
    draw(engine)
    awake = ["wake weights", *PUSH, "wake kv_cache", COMPARED]
    assert vllm.calls == ["sleep 2", *awake, "empty cache", "generate"]
    engine.wake()
    assert vllm.calls[-1] == "generate"


def test_on_a_cpu_it_does_not_sleep(start: Start) -> None:
    engine, vllm = start()
    assert not vllm.options["enable_sleep_mode"] and vllm.options["enforce_eager"]
    vllm.calls.clear()
    engine.sleep()
    engine.wake()
    assert vllm.calls == []


@pytest.mark.parametrize(("off", "stale"), [(0.19, False), (0.21, True), (float("nan"), True)])
def test_other_log_probs_than_the_trainer_s_after_a_push_end_the_run(
    start: Start, off: float, stale: bool
) -> None:
    engine, vllm = start()
    vllm.scores = SCORE + off
    if not stale:
        engine.sync()
        return
    with pytest.raises(RecordError, match=r"differ from the trainer's by .* set engine: native\.$"):
        engine.sync()


@pytest.mark.parametrize("ranks", [1, 2])
def test_of_several_ranks_each_starts_an_engine_of_its_own(start: Start, ranks: int) -> None:
    _, vllm = start(ranks=ranks)
    launcher = vllm.options["distributed_executor_backend"]
    assert launcher == (None if ranks == 1 else "external_launcher")
    assert "tensor_parallel_size" not in vllm.options
    assert ("stays" in vllm.calls) == (ranks == 2), "its end is not that of the process group"


def test_a_rank_without_prompts_wakes_with_the_others_and_draws_nothing(start: Start) -> None:
    engine, vllm = start(cuda=True, ranks=2)
    engine.sleep()
    vllm.calls.clear()
    assert engine.generate([], max_new_tokens=4, temperature=1.0) == []
    assert vllm.calls == ["wake weights", *PUSH, "wake kv_cache", COMPARED]


def test_a_cache_that_keeps_old_keys_is_an_error(start: Start) -> None:
    engine, vllm = start()
    vllm.empties = False
    with pytest.raises(RecordError, match="did not empty its prefix cache"):
        draw(engine)


def test_an_answer_that_would_be_cut_by_the_context_is_refused(start: Start) -> None:
    engine, _ = start()
    draw(engine, limit=18)
    with pytest.raises(RecordError, match="need 21 tokens, but vLLM's context is 20; lower"):
        draw(engine, limit=19)


def test_vllm_that_is_missing_or_cannot_start_is_one_sentence(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(**options: Any) -> Any:
        raise RuntimeError("no kernel for\nthis head size")

    monkeypatch.setattr(sys.modules["vllm"], "LLM", fails)
    with pytest.raises(RecordError, match=r"^vLLM cannot start on base: no kernel for this head"):
        start()
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(RecordError, match=r"^vLLM cannot be imported \(.*set engine: native\.$"):
        start()


@pytest.mark.parametrize("temperature", [0.005, 2.1])
def test_temperatures_that_vllm_would_refuse_or_change_are_refused(temperature: float) -> None:
    make_training(temperature=temperature)
    with pytest.raises(ValidationError, match=f"from 0.01 to 2, not {temperature}"):
        make_training(temperature=temperature, engine="vllm")
    evaluation = {"max_response_tokens": 1, "n_samples": 1, "sampled_questions": 1}
    with pytest.raises(ValidationError, match=f"from 0.01 to 2, not {temperature}"):
        EvaluationConfig(**evaluation, temperature=temperature, engine="vllm")


def test_a_gap_above_the_limit_ends_the_run() -> None:
    _check_sync_gap(None, 1)
    _check_sync_gap(SYNC_GAP_LIMIT, 1)
    with pytest.raises(RecordError, match=r"^step 7: the sampler's log-probs differ .* sync\.$"):
        _check_sync_gap(1.01 * SYNC_GAP_LIMIT, 7)
