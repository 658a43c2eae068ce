"""Three steps of each kind of method on this machine's GPU, as JSON; see benchmarks/gpu_check.sh.

Models have random weights and a word-level tokenizer that is made here, padded to the vocabulary of
the real ones, so that memory and time are theirs. Their answers are noise, and rewards are zero but
for chance: with a KL term every row still goes through the update. Each run is a process of its
own, which gives all memory back and keeps a failure to itself.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from bridge.jobs.needs import predict
from bridge.jobs.needs.shapes import ModelShape
from bridge.machine.determinism import make_deterministic
from bridge.machine.provenance import device_name, training_device, versions
from bridge.methods.registry import load_method
from bridge.models.checkpoint import load_policy
from bridge.models.decoding import GraphedDecoder, LibraryDecoder, PlainDecoder
from bridge.models.tiny import build_tokenizer, save_base
from bridge.plan.grid import RunSpec
from bridge.store.records import file_hash, read_json, read_jsonl, write_json
from bridge.store.settings import EvaluationConfig, LocalModel, TrainingConfig
from bridge.tasks.base import SyntheticFamily
from bridge.tasks.registry import load_family

TINY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "vocab_size": 512,
}
REAL = ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-3B")
METHODS = ("sft", "rl_zero", "bridge")
CONTEXT_TOKENS = 512
STEPS = 3
SECONDS = 540.0
"""When to start no further run: the shell stops everything a minute later."""
TAIL = 3000
"""Characters of a failed run's output that are passed on."""
PARITY = 2e-3
"""Largest difference of losses between GPU and CPU in float32, relative to 1 nat."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu_check.json"))
    parser.add_argument(
        "--models", nargs="*", default=REAL, metavar="REPO", help=f"shapes (default: {REAL})"
    )
    parser.add_argument(
        "--checkpoint", type=Path, help="a checkpoint to measure before the random models"
    )
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="start no further run after these"
    )
    parser.add_argument("--no-tiny", action="store_true", help="measure the models only")
    parser.add_argument("--methods", nargs="*", default=METHODS, help="of the models")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        _train(json.loads(arguments.run))
        return
    begin = time.monotonic() - (SECONDS - arguments.seconds)
    gpu = torch.cuda.is_available()
    report: dict[str, Any] = {
        "device": device_name(),
        "gpu": gpu,
        "note": None if gpu else "No GPU was found: only the tiny part ran, on the CPU.",
        "steps_each": STEPS,
        "versions": versions(),
    }
    if gpu:
        report["device_memory_gib"] = torch.cuda.get_device_properties(0).total_memory / 2**30
    engines = ["native", *(["vllm"] if find_spec("vllm") else [])]
    report["engines"] = engines
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        if not arguments.no_tiny:
            report |= tiny(folder, engines, begin)
        if gpu:
            report |= {"models": {}, "decoders": {}}
            checkpoint: Path | None = arguments.checkpoint
            for repo in ([checkpoint] if checkpoint else []) + [*arguments.models]:
                name = Path(repo).name
                if repo is checkpoint:
                    (folder / name).symlink_to(checkpoint.resolve())
                else:
                    make_model(folder / name, shape(repo))
                report["models"][name] = {
                    engine: {m: measure(folder, name, m, engine, begin) for m in arguments.methods}
                    for engine in engines
                }
                report["decoders"][name] = decoders(folder / name)
    report["seconds"] = time.monotonic() - begin - (SECONDS - arguments.seconds)
    write_json(arguments.out, report)
    print(json.dumps(report, indent=1, sort_keys=True))
    if any(run["status"] == "failed" for run in report.get("tiny", {}).values()):
        sys.exit(1)
    if not report.get("parity", {"agree": True})["agree"]:
        sys.exit("gpu_check: losses on the GPU differ from those on the CPU; see parity.")


def tiny(folder: Path, engines: list[str], begin: float) -> dict[str, Any]:
    """Whether each method runs; on a GPU also whether losses are the CPU's and a run repeats."""
    make_model(folder / "tiny", TINY)
    gpu = torch.cuda.is_available()
    # Nobody reads the seconds of a tiny model, so on a GPU all of it runs side by side.
    with ThreadPoolExecutor(6 if gpu else 1) as pool:
        runs = {m: pool.submit(measure, folder, "tiny", m, "native", begin) for m in METHODS}
        twice = {e: pool.submit(repeated, folder, "tiny", e, begin) for e in engines if gpu}
        report: dict[str, Any] = {"tiny": {m: run.result() for m, run in runs.items()}}
        if gpu:
            report["parity"] = parity(folder, report["tiny"], begin)
            report["repeated"] = {e: found.result() for e, found in twice.items()}
    return report


@torch.inference_mode()
def decoders(checkpoint: Path, n_tokens: int = 64) -> dict[str, Any]:
    """Milliseconds a token of the three ways to decode, and how far their logits are apart."""
    make_deterministic(full=False, engines=())
    device = training_device()
    model = load_policy(checkpoint).model.to(device)
    prompts = torch.randint(5, 400, (8, 48), generator=torch.Generator().manual_seed(0)).to(device)
    owner = torch.arange(8, device=device).repeat_interleave(4)
    mask, tokens = torch.ones_like(prompts), prompts[owner, 0]
    kinds = [LibraryDecoder, PlainDecoder, *([GraphedDecoder] if device.type == "cuda" else [])]
    found: dict[str, Any] = {"issue_us": _issue_us(device)}
    for dtype in (torch.float32, torch.bfloat16):
        model = model.to(dtype)
        last: dict[str, torch.Tensor] = {}
        for kind in kinds:
            decoder = kind(model, mask, owner, n_tokens)
            logits = decoder.start(prompts)
            begin = time.monotonic()
            for _ in range(n_tokens):
                logits = decoder.step(tokens)
            last[kind.name] = logits.cpu()  # waits for all of it
            passed = (time.monotonic() - begin) / n_tokens
            found[f"{kind.name}_{str(dtype)[6:]}_ms"] = round(1000 * passed, 2)
        if dtype == torch.float32:
            library = last.pop(LibraryDecoder.name)
            found["differences"] = {k: float((x - library).abs().max()) for k, x in last.items()}
    return found


def _issue_us(device: torch.device, n: int = 3000) -> float:
    """Microseconds that a small operation takes from Python."""
    x = torch.zeros(8, device=device)
    x.add_(1)
    begin = time.monotonic()
    for _ in range(n):
        x.add_(1)
    return round(1e6 * (time.monotonic() - begin) / n, 2)


def shape(repo: str) -> dict[str, Any]:
    """The numbers of a model of the hub, from the table of the predictions."""
    from bridge.jobs.needs import shapes

    found: ModelShape = shapes._table()[repo]
    return {k: v for k, v in found.model_dump().items() if k in TINY}


def make_model(folder: Path, sizes: dict[str, Any]) -> None:
    """Write a checkpoint with random weights; most of its vocabulary no text uses."""
    words = cast(SyntheticFamily, load_family("chains")).vocabulary()
    tokenizer = build_tokenizer(words, context_tokens=CONTEXT_TOKENS)
    torch.manual_seed(0)
    config = Qwen2Config(
        **{
            **sizes,
            "max_position_embeddings": CONTEXT_TOKENS,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
    )
    # Drawing three billion random numbers takes minutes on a CPU.
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Qwen2ForCausalLM(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    save_base(model.cpu(), tokenizer, folder)
    del model
    torch.cuda.empty_cache()


def make_spec(
    folder: Path, model: str, method: str, engine: str, *, full_determinism: bool = False
) -> RunSpec:
    """Three steps of a method."""
    tiny = model == "tiny"
    kind, family = load_method(method), load_family("chains")
    options = {"train_size": 32, "validation_size": 8, "demonstrations": 16}
    checked = family.Options.model_validate({**options, "questions_scale": 0.02})
    training = TrainingConfig(
        prompts_per_step=8,
        n=4,
        max_response_tokens=24 if tiny else 256,
        engine=cast(Any, engine),
        kv_cache_gib=2.0,
        sft_batch_size=8,
        lr_sft=1e-4 if tiny else 1e-6,
        lr_rl=1e-4 if tiny else 1e-6,
        kl_coef=0.01,
        micro_batch_tokens=8192,
        precision="float32" if tiny else "bfloat16",
        activation_checkpointing=not tiny,
        cpu_offload=not tiny and not _is_roomy(),
        full_determinism=full_determinism,
        probe_every=100,
        probe_size=4,
        checkpoint_every=100,
    )
    return RunSpec(
        suite="gpu_check",
        model=model,
        dataset="chains",
        label=f"{method}-{engine}",
        seed=0,
        model_config=LocalModel(source="local", path=str(folder / model)),
        family="chains",
        dataset_options=checked.model_dump(mode="json"),
        method=method,
        method_options=kind.Options.model_validate({"steps": STEPS}).model_dump(mode="json"),
        training=training,
        evaluation=EvaluationConfig(max_response_tokens=8, n_samples=0, sampled_questions=0),
    )


def _is_roomy() -> bool:
    """Whether the card holds all of a small model's training."""
    if not torch.cuda.is_available():
        return False
    return torch.cuda.get_device_properties(0).total_memory > 70 * 2**30


def measure(
    folder: Path,
    model: str,
    method: str,
    engine: str,
    begin: float,
    *,
    hidden: bool = False,
    full_determinism: bool = False,
    results: str = "results",
) -> dict[str, Any]:
    """Seconds by stage, peak memory, and the losses of three steps; or why there are none.

    Args:
        begin: when the whole check began, on the monotonic clock.
        hidden: hide the GPU from the run.
        full_determinism: allow kernels with a fixed order of sums only.
        results: folder below ``folder`` for what the run writes.
    """
    if time.monotonic() - begin > SECONDS:
        return {"status": "skipped", "reason": "ten minutes were over"}
    written = folder / ("on-cpu" if hidden else results)
    asked = {"folder": str(folder), "model": model, "method": method, "engine": engine}
    asked |= {"full_determinism": full_determinism}
    environment = dict(os.environ)
    if hidden:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable, __file__, "--run", json.dumps({**asked, "results": str(written)})]
    left = max(10.0, SECONDS + 30.0 - (time.monotonic() - begin))
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=left
        )
    except subprocess.TimeoutExpired:
        return {"status": "skipped", "reason": "ten minutes were over"}
    if done.returncode != 0:
        print(done.stderr[-TAIL:], file=sys.stderr)
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return {"status": "failed", "reason": lines[-1] if lines else f"exit {done.returncode}"}
    spec = make_spec(folder, model, method, engine, full_determinism=full_determinism)
    run = spec.folder(written)
    record = read_json(run.done)
    losses = ("rl_loss", "demonstration_loss", "kl", "grad_norm")
    predicted = predict(spec)
    return {
        "status": record["status"],
        "reason": record["reason"],
        "seconds": record["seconds"],
        "seconds_by_step": [line["seconds"] for line in read_jsonl(run.timings)[1:]],
        "tokens": record["tokens"],
        "memory_gib": record["memory_gib"],
        "memory_by_stage_gib": record["memory_by_stage_gib"],
        "predicted_update_gib": predicted.update_gib["total"],
        "parameters": predicted.parameters,
        "steps": [
            {k: line[k] for k in losses if k in line} for line in read_jsonl(run.dynamics)[1:]
        ],
    }


def parity(folder: Path, on_gpu: dict[str, Any], begin: float) -> dict[str, Any]:
    """The tiny model's first step on the CPU beside the GPU's.

    Only of SFT: it sees the same rows on both. Sampling may draw another token where two numbers
    lie within rounding, and all that follows is another text.
    """
    on_cpu = measure(folder, "tiny", "sft", "native", begin, hidden=True)
    if {on_gpu["sft"]["status"], on_cpu["status"]} != {"done"}:
        return {"agree": False, "reason": on_cpu.get("reason") or on_gpu["sft"]["reason"]}
    pairs = [
        (here["demonstration_loss"], there["demonstration_loss"])
        for here, there in zip(on_gpu["sft"]["steps"], on_cpu["steps"], strict=True)
    ]
    worst = max(abs(a - b) / max(1.0, abs(b)) for a, b in pairs)
    return {"losses": pairs, "worst": worst, "limit": PARITY, "agree": worst < PARITY}


def repeated(folder: Path, model: str, engine: str, begin: float) -> dict[str, Any]:
    """Whether two RL runs under ``full_determinism`` write the same bytes."""

    def run(results: str) -> dict[str, Any]:
        return measure(
            folder, model, "rl_zero", engine, begin, full_determinism=True, results=results
        )

    with ThreadPoolExecutor(2 if torch.cuda.is_available() else 1) as pool:
        for made in pool.map(run, ("first", "second")):
            if made["status"] != "done":
                return {"status": made["status"], "reason": made["reason"]}
    spec = make_spec(folder, model, "rl_zero", engine, full_determinism=True)
    runs = [spec.folder(folder / results) for results in ("first", "second")]
    logs = [run.dynamics.read_bytes() for run in runs]
    weights = [file_hash(run.policy / "model.safetensors") for run in runs]
    equal = {"same_log": logs[0] == logs[1], "same_weights": weights[0] == weights[1]}
    return {"status": "done", **equal}


def _train(asked: dict[str, Any]) -> None:
    from bridge.jobs.memory_errors import memory_explained
    from bridge.jobs.run_jobs import set_threads
    from bridge.machine.determinism import set_environment
    from bridge.run.loop import train_run

    set_threads(1)
    full = asked.get("full_determinism", False)
    if full:
        set_environment({asked["engine"]})
    spec = make_spec(
        Path(asked["folder"]),
        asked["model"],
        asked["method"],
        asked["engine"],
        full_determinism=full,
    )
    with memory_explained(spec, "train"):
        train_run(spec, results=Path(asked["results"]), threads=1)


if __name__ == "__main__":
    main()
