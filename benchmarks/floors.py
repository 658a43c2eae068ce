"""Where a GRPO step goes, and how far each stage is from what the machine could do at best.

    python -m benchmarks.floors

The floor of a stage is the longer of two times: its operations over the measured rate of float32
matrix products, and the bytes that it cannot avoid to move over the measured bandwidth of a copy.
Operations are those of matrix products and attention, each with the tokens that the answers have;
bytes are the weights once per pass and the keys and values of all tokens once per decoded token,
the gradient once, and AdamW's seven passes over the weights. Where everything fits into a cache,
bytes can be faster than that. ``reached`` is the floor over the measured CPU seconds: 1 is at the
floor. Random weights, answers of 64 tokens, one thread.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.grpo import Ours, set_up_torch, totals_of
from benchmarks.parts import Numbers, cpu_s, significant, write_part
from benchmarks.random_models import make_policy, make_problems
from bridge.models.decoding import PlainDecoder

WORLDS = {"0.3M": (8, 8), "20M": (2, 8)}
"""Prompts and answers to each, by size."""
PROMPT_TOKENS, ANSWER_TOKENS = 30, 64
STAGES = ("prompt_forward", "decode", "update_forward", "update_backward", "optimizer")
FLOAT_BYTES = 4


def matrix_rate(n: int = 1024, rounds: int = 9) -> float:
    """Operations per second of one float32 product of square matrices, at best."""
    a, b = torch.rand(n, n), torch.rand(n, n)
    return 2 * n**3 / min(cpu_s(lambda: torch.mm(a, b)) for _ in range(rounds))


def bandwidth(mib: int = 256, rounds: int = 9) -> float:
    """Bytes per second, read and written, of a copy that fits into no cache, at best."""
    source = torch.rand(mib * 2**20 // FLOAT_BYTES)
    target = torch.empty_like(source)
    least_s = min(cpu_s(lambda: target.copy_(source)) for _ in range(rounds))
    return 2 * source.numel() * FLOAT_BYTES / least_s


@dataclass(frozen=True)
class Work:
    """What a stage has to do at least."""

    operations: float
    bytes: float

    def floor_s(self, rate: float, bytes_per_s: float) -> float:
        return max(self.operations / rate, self.bytes / bytes_per_s)


def work_of(
    config: Any, prompts: int, samples: int, *, tokens: int, answer: int
) -> dict[str, Work]:
    """Of each stage, for prompts of ``tokens`` tokens and answers of ``answer``."""
    width, heads = config.hidden_size, config.num_attention_heads
    kept = 2 * width * config.num_key_value_heads // heads  # keys and values of a token
    attention = 2 * width * width + width * kept
    layer = attention + 3 * width * config.intermediate_size
    layers, head = config.num_hidden_layers, config.vocab_size * width
    rows, weights = prompts * samples, layers * layer + head
    # A token attends to itself and what is before it: two products of 2 x width each.
    in_prompt = prompts * tokens * (tokens + 1) / 2
    in_answers = rows * answer * (tokens + (answer + 1) / 2)
    pairs = 4 * width * layers
    prompt = 2 * layers * layer * prompts * tokens + pairs * in_prompt
    answers = 2 * layers * layer * rows * answer + pairs * in_answers
    scored = 2 * head * rows * answer
    forward = prompt + answers + scored
    decode_bytes = answer * weights + kept * layers * in_answers
    return {
        "prompt_forward": Work(prompt + 2 * head * prompts, FLOAT_BYTES * weights),
        "decode": Work(answers + scored, FLOAT_BYTES * decode_bytes),
        "update_forward": Work(forward, FLOAT_BYTES * weights),
        "update_backward": Work(2 * forward, FLOAT_BYTES * 2 * weights),
        "optimizer": Work(0, FLOAT_BYTES * 7 * weights),
    }


class Clock:
    """CPU seconds by stage, between the beginning and the end of a step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def timed(self, stage: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **settings: Any) -> Any:
            begin = time.process_time()
            try:
                return work(*arguments, **settings)
            finally:
                spent = time.process_time() - begin
                self.seconds[stage] = self.seconds.get(stage, 0.0) + spent

        return run


@contextmanager
def watched(ours: Ours, clock: Clock) -> Iterator[None]:
    """Inside, the stages of a step are timed."""
    trainer, policy = ours.trainer, ours.trainer.policy
    with (
        patch.object(PlainDecoder, "start", _method(clock, "prompt_forward", PlainDecoder.start)),
        patch.object(ours.engine, "generate", clock.timed("rollout", ours.engine.generate)),
        patch.object(trainer, "_scores", clock.timed("update_forward", trainer._scores)),
        patch.object(policy, "backward", clock.timed("update_backward", policy.backward)),
        patch.object(trainer, "descend", clock.timed("optimizer", trainer.descend)),
    ):
        yield


def _method(clock: Clock, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
    timed = clock.timed(stage, function)
    return lambda self, *arguments: timed(self, *arguments)


def stages_of(ours: Ours, rounds: int) -> dict[str, float]:
    """Median CPU seconds of each stage; ``rest`` is what lies between them."""
    found = []
    ours.step()
    for _ in range(rounds):
        clock = Clock()
        with watched(ours, clock):
            clock.timed("step", ours.step)()
        seconds = clock.seconds
        seconds["decode"] = seconds.pop("rollout") - seconds["prompt_forward"]
        seconds["rest"] = seconds["step"] - sum(seconds[stage] for stage in STAGES)
        found.append(seconds)
    return {stage: median(seconds[stage] for seconds in found) for stage in found[0]}


def measured(size: str, rate: float, bytes_per_s: float, rounds: int) -> Numbers:
    """Stages of a step of a model with random weights."""
    prompts, samples = WORLDS[size]
    with tempfile.TemporaryDirectory() as folder:
        config = make_policy(Path(folder), size).model.config
        problems = make_problems(prompts, PROMPT_TOKENS)
        ours = Ours(Path(folder), problems, samples, ANSWER_TOKENS, forced=True)
    seconds = stages_of(ours, rounds)
    work = work_of(config, prompts, samples, tokens=PROMPT_TOKENS, answer=ANSWER_TOKENS)
    stages = {}
    for stage in (*STAGES, "rest"):
        share = seconds[stage] / seconds["step"]
        stages[stage] = {"seconds": significant(seconds[stage]), "share": significant(share, 3)}
        if stage in work:
            floor = work[stage].floor_s(rate, bytes_per_s)
            stages[stage] |= {
                "operations": work[stage].operations,
                "bytes": work[stage].bytes,
                "floor_s": significant(floor),
                "reached": significant(floor / seconds[stage], 3),
            }
    batch = totals_of(ours.batch(ours.rollout()))
    return {"batch": batch, "step_s": significant(seconds["step"]), "stages": stages}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", nargs="*", choices=WORLDS, default=list(WORLDS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", type=Path, help="file to keep the numbers in; printed anyway")
    arguments = parser.parse_args()
    set_up_torch()
    rate, bytes_per_s = matrix_rate(), bandwidth()
    numbers: Numbers = {
        "matrix_gflops": significant(rate / 1e9),
        "bandwidth_gb_per_s": significant(bytes_per_s / 1e9),
        "sizes": {s: measured(s, rate, bytes_per_s, arguments.rounds) for s in arguments.sizes},
    }
    ratios = {
        f"{size}_{stage}": found["stages"][stage]["reached"]
        for size, found in numbers["sizes"].items()
        for stage in STAGES
    }
    write_part(arguments.write, numbers, ratios)


if __name__ == "__main__":
    main()
