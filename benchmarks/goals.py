"""What speed was asked for, what it was at the beginning, and what it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Part = dict[str, Any]


@dataclass(frozen=True)
class Goal:
    """One line of the table.

    Args:
        key: of the watched ratio of the part.
        before: at the beginning; commit 4000277 where seconds are given, the first comparison with
            TRL on two AVX2 cores where ratios are.
        bar: what ``now`` should be.
        least: the ratio at which the goal is met.
        now: what is shown; None: the ratio.
    """

    part: str
    key: str
    text: str
    before: str
    bar: str
    least: float = 1.0
    now: Callable[[Part], float] | None = None

    def line(self, parts: dict[str, Part]) -> str:
        """A row of a Markdown table; ``not measured`` where there is nothing."""
        part = parts.get(self.part)
        if part is None or self.key not in part["ratios"]:
            return f"| {self.text} | {self.before} | not measured | {self.bar} | |"
        ratio = part["ratios"][self.key]
        shown = ratio if self.now is None else self.now(part["numbers"])
        met = "met" if ratio >= self.least else "missed"
        return f"| {self.text} | {self.before} | {shown:.3g} | {self.bar} | {met} |"


def ratio(part: str, key: str, text: str, before: str, bar: float) -> Goal:
    return Goal(part, key, text, before, f"{bar:g}", bar)


def planned(name: str, text: str, before: str, bar: str) -> Goal:
    return Goal("planning", name, text, before, bar, now=lambda n: n[name]["cpu_s"])


GOALS = (
    ratio("grpo", "forced_step", "GRPO step, forced 64 tokens: TRL / ours", "1.13 to 1.26", 2),
    ratio("grpo", "natural_step", "GRPO step, natural lengths: TRL / ours", "1.95 to 2.42", 3.5),
    ratio("grpo", "natural_rollout", "rollout, natural: generate / ours", "2.2 to 2.8", 4.5),
    ratio("grpo", "sft_epoch", "SFT, ragged: TRL with packing / ours", "", 1.5),
    ratio("rollouts", "native_over_vllm", "tokens per second: ours / vLLM on the CPU", "", 1),
    Goal(
        "bridge", "parts_over_bridge", "BRIDGE step / (RL step + SFT gradient + RL gradient)", "",
        "at most 1.04", 1 / 1.04, lambda n: n["over_parts"],
    ),
    ratio("grading", "first", "rewritten real golds: math-verify / ours", "", 1.8),
    ratio("grading", "returning", "the same pairs again: first time / second", "", 20),
    Goal(
        "grading", "braces", "5 MB of braces: CPU s of the training process", "", "under 10",
        now=lambda n: max(n["braces_cpu_s"].values()),
    ),
    planned("help", "`bridge --help`, CPU s", "0.27", "0.15"),
    planned("status", "`bridge status`, CPU s", "0.35", "0.3"),
    planned("plan_72", "`snakemake -n`, 72 runs, CPU s", "3.1", "3"),
    planned("plan_1008", "`snakemake -n`, 1,008 runs, CPU s", "8.6", "8"),
    planned("plan_10008", "`snakemake -n`, 10,008 runs, CPU s", "220", "60"),
    Goal(
        "planning", "plan_10008_memory", "the same: peak MiB", "524", "1,000",
        now=lambda n: n["plan_10008"]["peak_mib"],
    ),
    planned("collect_10000", "`bridge collect`, 10,000 small runs, CPU s", "17", "60"),
    Goal(
        "planning", "collect_10000_memory", "the same: peak MiB", "404", "2,000",
        now=lambda n: n["collect_10000"]["peak_mib"],
    ),
    Goal(
        "cached", "wall", "tables, figures and report of `laptop` from cache, s", "", "20",
        now=lambda n: n["laptop"]["wall_s"],
    ),
    Goal(
        "report", "many", "a report of 1,008 runs can be used after, s", "", "2",
        now=lambda n: n["many"]["usable_s"],
    ),
)  # fmt: skip
