"""What predicted hours are worth: published runs, predicted with the same constants.

    python benchmarks/hours_anchors.py [--parts]

Each run is described as this harness would be told it, with its machine, and predicted for the time
of its training (its final evaluation is left out). The ratio is predicted over published device
hours. Nothing is fitted to a run; docs/memory.md holds the table with what explains the rest.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bridge.jobs.needs import predict
from bridge.jobs.needs.devices import device
from bridge.jobs.needs.rows import rows_of
from bridge.jobs.needs.shapes import shape_of
from bridge.plan.grid import RunSpec, load_plan
from bridge.store.settings import HubModel, ShardingConfig

ROOT = Path(__file__).resolve().parents[1]
PAGE = "docs/memory.md"
BEGIN, END = "<!-- hours_anchors -->", "<!-- end of hours_anchors -->"
NEAR = 1.5
"""Factor within which a prediction counts as holding."""
_CACHE_GIB = 24.0


@dataclass(frozen=True)
class Anchor:
    """A published run: what it cost, and what is known of it."""

    name: str
    published_h: float
    """By the clock, on all devices."""
    devices: int
    device: str
    model: str
    method: str
    options: dict[str, Any]
    training: dict[str, Any] = field(default_factory=dict)
    mean_answer: float | None = None
    """Tokens, where published; None: the share of the limit that all predictions assume."""
    mean_demonstration: float | None = None
    other_mean: float | None = None
    """Of answers, with which the ratio is told as well where nothing is published."""
    why: str = ""
    """What explains a ratio that is not near 1, or on which assumption the row rests."""


_EAGER = {"engine": "native"}
"""verl's default (``enforce_eager``): vLLM without recorded graphs, as slow per token as the native
engine."""
_BRIDGE = {**_EAGER, "probe_every": 22, "probe_size": 250, "checkpoint_every": 22}
"""Validation and a checkpoint after each epoch, as in the first author's scripts."""
_STEPS_8B = (
    "the number of steps is not published; six epochs of MATH 8k, as on LIMR, are assumed, and the "
    "same share of the card as NVIDIA's software reaches"
)
_LUFFY = {
    **_EAGER,
    "probe_every": 50,
    "checkpoint_every": 50,
    "prompts_per_step": 128,
    "n": 8,
    "max_response_tokens": 8192,
    "ppo_mini_batch_size": 64,
    "kl_coef": 0.0,
    "sft_batch_size": 64,
}
_MATH_7B = "Elliott/Qwen2.5-Math-7B-16k-think"
# 3.6e19 FLOP less the 50 RL steps, at 6 per weight and token, over three epochs of 45,800 rows.
_R1_TOKENS = 4700.0


def _bridge(method: str, published_h: float, why: str, **options: Any) -> Anchor:
    name = f"BRIDGE 3B, {method}"
    return Anchor(
        name, published_h, 4, "a100-80gb", "Qwen/Qwen2.5-3B", method, options, _BRIDGE, why=why
    )


def _bridge_8b(method: str, published_h: float, why: str, **options: Any) -> Anchor:
    name = f"BRIDGE 8B, {method}"
    return Anchor(
        name,
        published_h,
        8,
        "mi300x",
        "Qwen/Qwen3-8B-Base",
        method,
        options,
        {**_BRIDGE, "probe_every": 133, "checkpoint_every": 133},
        why=why,
    )


def _luffy(
    name: str,
    published_h: float,
    method: str,
    why: str = "",
    other_mean: float | None = None,
    **options: Any,
) -> Anchor:
    return Anchor(
        f"LUFFY's table, {name}",
        published_h,
        8,
        "a100-80gb",
        _MATH_7B,
        method,
        options,
        _LUFFY,
        mean_demonstration=_R1_TOKENS,
        other_mean=other_mean,
        why=why,
    )


_COLD = {"budget": "equal_rl_steps", "reference": "base"}
_JOINT = {"rl_weight": 0.5}
ANCHORS = (
    _bridge("rl_zero", 6.1, "", steps=130),
    _bridge(
        "cold_start",
        12.3,
        "6.2 h for the SFT stage are more than 20 times what six epochs of 1,387 traces take "
        "here; a longer stage or another count is likely",
        sft_steps=130,
        rl_steps=130,
        **_COLD,
    ),
    _bridge("bridge", 6.9, "", steps=130, **_JOINT),
    _bridge_8b("rl_zero", 38.5, _STEPS_8B, steps=798),
    _bridge_8b("cold_start", 39.1, _STEPS_8B, sft_steps=798, rl_steps=798, **_COLD),
    _bridge_8b("bridge", 33.5, _STEPS_8B, steps=798, **_JOINT),
    Anchor(
        "SimpleRL-Zoo 7B",
        15.0,
        16,
        "h100-80gb",
        "Qwen/Qwen2.5-7B",
        "rl_zero",
        {"steps": 100},
        {
            "prompts_per_step": 1024,
            "n": 8,
            "max_response_tokens": 8192,
            "ppo_mini_batch_size": 256,
            "kl_coef": 1e-4,
            **_EAGER,
            "probe_every": 5,
            "probe_size": 250,
            "checkpoint_every": 5,
        },
        other_mean=1000.0,
        why="0.3 of a limit of 8,192 is long for this model's answers to MATH",
    ),
    Anchor(
        "Dr.GRPO 7B",
        27.0,
        8,
        "a100-40gb",
        "Qwen/Qwen2.5-Math-7B",
        "rl_zero",
        {"steps": 1331},
        {
            "prompts_per_step": 128,
            "n": 8,
            "max_response_tokens": 3000,
            "ppo_mini_batch_size": 16,
            "kl_coef": 0.0,
            "sharding": ("zero2", 8),
            "probe_every": 16,
            "probe_size": 750,
            "checkpoint_every": 2000,
        },
        why="the number of batches is not published; 1,331 is the recipe's limit of 20 epochs, and "
        "the published hours pay for 8 of them",
    ),
    _luffy("SFT", 24, "sft", steps=2147),
    _luffy("LUFFY", 77, "luffy", steps=500, gamma=0.1, demonstrated_share=1.0),
    _luffy("SFT then RL", 130, "cold_start", sft_steps=2147, rl_steps=500, **_COLD),
    _luffy(
        "RL with SFT loss",
        133,
        "mixing",
        "the same work as LUFFY's own row; a likelihood term on long traces lengthens the answers",
        other_mean=_R1_TOKENS,
        steps=500,
        **_JOINT,
    ),
    Anchor(
        "NeMo RL 8B, 100 steps",
        97.7 * 100 / 3600,
        16,
        "h100-80gb",
        "meta-llama/Llama-3.1-8B-Instruct",
        "rl_zero",
        {"steps": 100},
        {
            "prompts_per_step": 64,
            "n": 32,
            "max_response_tokens": 4096,
            "ppo_mini_batch_size": 16,
            "kl_coef": 1e-2,
            "probe_every": 100,
            "checkpoint_every": 1000,
        },
        mean_answer=932.0,
    ),
)


def spec_of(anchor: Anchor, like: RunSpec) -> RunSpec:
    """The run as this harness would be told it."""
    changed = {"cpu_offload": False, "kv_cache_gib": _CACHE_GIB, **anchor.training}
    stage, ranks = changed.pop("sharding", ("zero3", anchor.devices))
    # Their engines and their sharding go together, which validation here does not allow yet.
    training = like.training.model_copy(
        update={**changed, "sharding": ShardingConfig(stage=stage, ranks=ranks)}
    )
    model = HubModel(source="hub", repo=anchor.model, revision="0" * 40)
    return replace(
        like,
        model_config=model,
        training=training,
        method=anchor.method,
        method_options=anchor.options,
    )


def predicted(anchor: Anchor, like: RunSpec) -> dict[str, float]:
    """Hours by the clock by part; ``total`` is that of training."""
    spec = spec_of(anchor, like)
    rows = rows_of(spec, shape_of(spec.model_config, anchor.name))
    rows = replace(
        rows,
        mean_answer=anchor.mean_answer or rows.mean_answer,
        mean_demonstration=anchor.mean_demonstration or rows.mean_demonstration,
    )
    hours = predict(spec, device(anchor.device), rows).hours
    assert hours is not None
    parts = {name: h for name, h in hours.items() if name not in ("evaluate", "start", "total")}
    return {**parts, "total": sum(parts.values())}


def note_of(anchor: Anchor, like: RunSpec) -> str:
    """Why the ratio is what it is; empty where there is nothing to say."""
    if anchor.other_mean is None:
        return anchor.why
    hours = predicted(replace(anchor, mean_answer=anchor.other_mean), like)["total"]
    return (
        f"{anchor.why}; with {anchor.other_mean:,.0f} tokens on average the ratio is "
        f"{hours / anchor.published_h:.2f}"
    )


def table(like: RunSpec) -> str:
    """The table in Markdown, with its notes."""
    lines = ["| run | devices | published, h | predicted, h | ratio |", "|---|---|---|---|---|"]
    notes: list[str] = []
    for anchor in ANCHORS:
        hours = predicted(anchor, like)["total"]
        said, mark = note_of(anchor, like), ""
        if said:
            notes += [said] * (said not in notes)
            mark = f" ({notes.index(said) + 1})"
        lines.append(
            f"| {anchor.name} | {anchor.devices} x {anchor.device} | {anchor.published_h:.3g} | "
            f"{hours:.3g} | {hours / anchor.published_h:.2f}{mark} |"
        )
    return "\n".join([*lines, "", *(f"{i}. {note}." for i, note in enumerate(notes, 1))])


def page_with(text: str, page: str) -> str:
    """A page with its table replaced."""
    before, _, rest = page.partition(f"{BEGIN}\n")
    return f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}"


def main() -> None:
    """Print the table, and with ``--write`` put it into the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", action="store_true", help="hours by part instead")
    parser.add_argument("--write", action="store_true", help=f"replace the table of {PAGE}")
    args = parser.parse_args()
    like = load_plan("paper", root=ROOT).runs[0]
    if args.parts:
        for anchor in ANCHORS:
            print(anchor.name, {k: round(v, 3) for k, v in predicted(anchor, like).items()})
        return
    text = table(like)
    print(text)
    if args.write:
        page = ROOT / PAGE
        page.write_text(page_with(text, page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
