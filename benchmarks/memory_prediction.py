"""How near do predictions of memory come to what an update really holds?

    python benchmarks/memory_prediction.py

Random-weight models of 0.1 to 21 million parameters make three steps of the real trainer, on rows
as long as the prediction assumes. Every tensor that an operation of PyTorch returns is counted
while it lives, as torch.cuda.max_memory_allocated does on a GPU; what a kernel needs inside itself
is not. Runs on the CPU, where bfloat16 is slow but allocates the same.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM

from bridge.engines.factors import LoraWeights
from bridge.jobs.needs import predict
from bridge.jobs.needs.memory import GIB
from bridge.jobs.needs.methods import cost_of
from bridge.jobs.needs.rows import rows_of
from bridge.jobs.needs.shapes import shape_of
from bridge.methods.base import Method
from bridge.methods.registry import load_method
from bridge.methods.relift import ReLIFT
from bridge.models.checkpoint import Policy, cast_weights
from bridge.plan.grid import RunSpec
from bridge.step.batches import StepBatch
from bridge.step.reference import Reference
from bridge.step.rows import Row
from bridge.step.trainer import Trainer
from bridge.step.weights import WholeWeights
from bridge.store.settings import EvaluationConfig, LocalModel, TrainingConfig
from bridge.tasks.base import Problem

SIZES: dict[str, dict[str, Any]] = {
    "0.1M": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 99},
    # A vocabulary for which the output layer works in chunks.
    "3M": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 50_000,
    },
    "21M": {
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "vocab_size": 32_000,
    },
}


class Ledger(TorchDispatchMode):
    """Bytes of all tensors that operations have returned and that still live; and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._held: dict[int, weakref.ref[Any]] = {}

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's storage until it dies."""
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._held or size == 0:
            return

        def died(_: Any) -> None:
            self._held.pop(key, None)
            self.now -= size

        self._held[key] = weakref.ref(storage, died)
        self.now += size
        self.peak = max(self.peak, self.now)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self.add(tensor)
        return out


@dataclass(frozen=True)
class Compared:
    """One setting."""

    name: str
    measured_gib: float
    predicted_gib: float

    @property
    def error(self) -> float:
        """Relative to what was measured."""
        return self.predicted_gib / self.measured_gib - 1.0


def write_config(folder: Path, architecture: str, **sizes: Any) -> Path:
    """A folder that holds the ``config.json`` of a model and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    hidden = sizes["hidden_size"]
    raw = {
        "model_type": architecture,
        "intermediate_size": 4 * hidden,
        "num_key_value_heads": sizes["num_attention_heads"],
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        **sizes,
    }
    if architecture == "qwen3":
        raw["head_dim"] = hidden // sizes["num_attention_heads"]
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


def make_spec(folder: Path, method: str, options: dict[str, Any], **training: Any) -> RunSpec:
    """A run of a method on a model of which only the configuration exists."""
    kind = load_method(method)
    settings = {
        "prompts_per_step": 2,
        "n": 2,
        "max_response_tokens": 128,
        "sft_batch_size": 4,
        "lr_sft": 1e-5,
        "lr_rl": 1e-5,
        "probe_every": 1,
        "checkpoint_every": 1,
        **training,
    }
    return RunSpec(
        suite="memory",
        model=folder.name,
        dataset="none",
        label=method,
        seed=0,
        model_config=LocalModel(source="local", path=str(folder)),
        family="chains",
        dataset_options={},
        method=method,
        method_options=kind.Options.model_validate(options).model_dump(mode="json"),
        training=TrainingConfig.model_validate(settings),
        evaluation=EvaluationConfig(max_response_tokens=8, n_samples=0, sampled_questions=0),
    )


def measured_gib(spec: RunSpec) -> float:
    """Peak over three updates of the real trainer, its weights included."""
    assert isinstance(spec.model_config, LocalModel)
    gc.collect()
    folder = Path(spec.model_config.path)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    model = AutoModelForCausalLM.from_config(config).eval()
    if spec.training.trainable == "lora" and spec.training.precision == "bfloat16":
        cast_weights(model, torch.bfloat16)  # as it is loaded
    kind = load_method(spec.method)
    method = kind(kind.Options.model_validate(spec.method_options), spec.training)
    low = spec.training.precision == "bfloat16"
    with Ledger() as ledger, _quiet():
        tokenizer: Any = SimpleNamespace(pad_token_id=0)
        for parameter in model.parameters():
            ledger.add(parameter)
        policy = _weights(spec.training, method, Policy(model, tokenizer, folder, (1,)))
        reference = None
        if spec.training.kl_coef > 0 or method.uses_reference:
            other = replace(policy.sampler, model=AutoModelForCausalLM.from_config(config).eval())
            cast_weights(other.model, torch.bfloat16 if low else torch.float32)
            reference = Reference(other, policy)
        trainer = Trainer(policy, spec.training, reference, method.token_weight, method.divergence)
        gc.collect()
        ledger.peak = ledger.now
        for step in (1, 2, 3):
            batch = _batch(spec, dict(cost_of(method).passes[method.phase(step).kind]))
            trainer.begin_step()
            method.update(trainer, batch, step)
            if isinstance(method, ReLIFT):  # every prompt has failed, so SFT is next
                shown = _batch(spec, {"demonstration": 1})
                method.buffer = [(step, row) for row in shown.rows]
        return ledger.peak / GIB


def _weights(training: TrainingConfig, method: Method, base: Policy) -> WholeWeights:
    compute = torch.bfloat16 if training.precision == "bfloat16" else None
    adapter: Any = None if method.adapter is None else method.adapter.shape
    shadow = method.uses_shadow
    if training.factors is None:
        return WholeWeights(base, adapter=adapter, shadow=shadow, compute=compute)
    return LoraWeights(base, training.factors, adapter=adapter, shadow=shadow)


def _batch(spec: RunSpec, terms: dict[Any, int]) -> StepBatch:
    """As many rows as the configuration asks for, all as long as they may be."""
    shape, training = shape_of(spec.model_config, "here"), spec.training
    rows = rows_of(spec, shape)
    problem = Problem(id="p", question="", answer="", difficulty=1)
    generator = torch.Generator().manual_seed(0)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(shape.vocab_size, (n,), generator=generator).tolist())

    made: list[Row] = []
    if "rl" in terms:
        for i in range(training.prompts_per_step * training.n):
            prompt, sampled = ids(rows.prompt), (0.0,) * rows.answer
            made.append(
                Row(
                    "rollout",
                    problem,
                    prompt,
                    ids(rows.answer),
                    advantage=(-1.0) ** i,
                    sampled_logprobs=sampled,
                    teacher_prompt_ids=prompt,
                )
            )
    if "demonstration" in terms:
        for _ in range(training.sft_batch_size):
            made.append(Row("demonstration", problem, ids(rows.prompt), ids(rows.demonstration)))
    return StepBatch(tuple(made))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Cycles are collected by hand: what is dead must not count as alive."""
    threshold = gc.get_threshold()
    gc.set_threshold(50, 5, 5)
    try:
        yield
    finally:
        gc.set_threshold(*threshold)


def compare(name: str, spec: RunSpec) -> Compared:
    """Measure and predict one setting."""
    return Compared(name, measured_gib(spec), predict(spec).update_gib["total"])


def settings(folder: Path, sizes: Sequence[str]) -> Iterator[tuple[str, RunSpec]]:
    """The settings of the table."""
    steps = {"steps": 2}
    for size in sizes:
        qwen = write_config(folder / f"qwen2-{size}", "qwen2", **SIZES[size])
        yield f"qwen2 {size}, sft", make_spec(qwen, "sft", steps)
        yield f"qwen2 {size}, rl_zero, KL", make_spec(qwen, "rl_zero", steps, kl_coef=0.01)
        yield f"qwen2 {size}, bridge", make_spec(qwen, "bridge", steps)
        low = {"precision": "bfloat16", "micro_batch_tokens": 1024}
        yield f"qwen2 {size}, mixing, bfloat16", make_spec(qwen, "mixing", steps, **low)
        low["activation_checkpointing"] = True
        yield (
            f"qwen2 {size}, bridge, bfloat16, checkpointing, KL",
            make_spec(qwen, "bridge", steps, kl_coef=0.01, **low),
        )
        lora = {"trainable": "lora", "lora_rank": 16, "lora_alpha": 16}
        yield f"qwen2 {size}, sft, lora", make_spec(qwen, "sft", steps, **lora)
        yield (
            f"qwen2 {size}, bridge, lora, bfloat16, checkpointing",
            make_spec(qwen, "bridge", steps, **lora, **low),
        )
        if find_spec("bitsandbytes") is not None:
            eight = {"optimizer": "adamw_8bit"}
            yield f"qwen2 {size}, mixing, 8 bit", make_spec(qwen, "mixing", steps, **eight)
            yield f"qwen2 {size}, bridge, 8 bit", make_spec(qwen, "bridge", steps, **eight, **low)
    largest = sizes[-1]
    for architecture in ("llama", "qwen3"):
        other = write_config(folder / f"{architecture}-{largest}", architecture, **SIZES[largest])
        yield f"{architecture} {largest}, rl_zero", make_spec(other, "rl_zero", steps)
    for form in ("forward", "js"):
        options = {**steps, "n": 2, "divergence": form}
        yield f"qwen2 {largest}, opsd, {form}", make_spec(qwen, "opsd", options)
    options = {**steps, "shadow": "lookahead"}
    yield f"qwen2 {largest}, bridge lookahead", make_spec(qwen, "bridge", options)
    options = {**steps, "upper": "full"}
    yield f"qwen2 {largest}, bridge full", make_spec(qwen, "bridge", options)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    arguments = parser.parse_args()
    print("| setting | measured, MiB | predicted, MiB | error |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, spec in settings(Path(folder), arguments.sizes):
            found = compare(name, spec)
            print(
                f"| {name} | {found.measured_gib * 1024:.1f} | {found.predicted_gib * 1024:.1f} "
                f"| {found.error:+.1%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
