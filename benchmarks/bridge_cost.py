"""What does a BRIDGE step cost in time and in memory?

    python -m benchmarks.bridge_cost                    prints Markdown

One process, one run per row of the table, all on the world of ``suites/bridge_ablation.yaml`` and
at learning rate 0: nothing moves, so in each repetition every row answers the same prompts with the
same rollouts and takes its gradients on the same batch. Repetitions are interleaved and begin with
another row each time. Seconds are those of a whole step: rollout, grading, update and sync.

BRIDGE (persistent shadow, shared rollouts) takes two gradients more than an RL step: of the SFT
term, and of the RL term at the shadow. The stated ratio is BRIDGE over the RL step plus these two,
per repetition; what is above 1 are merges and updates of the further weights. Where other jobs run
beside, CPU seconds of this process are the steadier ones (grading workers are not in them).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.parts import write_part
from bridge.grading.pool import GraderPool
from bridge.machine.ranks import ALONE
from bridge.plan.grid import RunSpec, load_plan
from bridge.run.building import build_run
from bridge.run.state import Run
from bridge.step.batches import StepBatch
from bridge.step.weights import ADAPTER, BASE, SHADOW
from bridge.store.records import base_folder

SUITE, MODEL, BOUND = "bridge_ablation", "tiny-qwen", 1.04
ROWS = {
    "rl_zero": "RL step (rl_zero)",
    "mixing": "mixing",
    "bridge": "BRIDGE: persistent, shared rollouts",
    "bridge_lookahead": "BRIDGE: lookahead",
    "bridge_m_step": "BRIDGE: m_step, m = 4",
    "bridge_own_rollouts": "BRIDGE: own rollouts for the shadow",
}
NAMES = ROWS | {"sft": "one gradient of the SFT term", "rl": "one gradient of the RL term"}
WARM_UP = 2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument(
        "--policy", type=Path, help="weights to measure at (default: the base model of the suite)"
    )
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", type=Path, help="file to keep the numbers in")
    arguments = parser.parse_args()
    base = arguments.policy or base_folder(arguments.results, SUITE, MODEL)
    if not base.is_dir():
        raise SystemExit(
            f"{base} is missing; make it by `bridge prepare --suite {SUITE} --model {MODEL}`."
        )
    torch.set_num_threads(arguments.threads)
    torch.use_deterministic_algorithms(True)
    specs = {s.label: s for s in load_plan(SUITE, root=Path()).runs if s.seed == 0}
    with ExitStack() as stack:
        grader = stack.enter_context(GraderPool())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))

        def start(label: str, **training: Any) -> Run:
            settings = specs[label].training.model_copy(update=training)
            spec: RunSpec = replace(specs[label], training=settings)
            run = build_run(spec, spec.folder(folder), grader, base, ALONE)
            run.grade_demonstrations()
            return run

        runs = {label: start(label, lr_rl=0.0, lr_sft=0.0) for label in ROWS}
        seconds = measure(runs, arguments.repetitions)
        print_times(seconds, threads=arguments.threads)
        memories = [start(label, kl_coef=1e-3) for label in ("bridge", "bridge_lookahead")]
        print_memory([memory_of(run) for run in memories])
    if arguments.write is not None:
        rows = [
            {"name": name, "cpu_s": statistics.median(seconds[label].cpu)}
            for label, name in NAMES.items()
        ]
        over = over_parts(seconds)
        numbers = {"rows": rows, "over_parts": over}
        write_part(arguments.write, numbers, {"parts_over_bridge": 1 / over})


# -- time ---------------------------------------------------------------------------------------


@dataclass
class Seconds:
    """Of each repetition."""

    whole: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    update: list[float] = field(default_factory=list)

    @contextmanager
    def timed(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.whole.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)


def measure(runs: dict[str, Run], repetitions: int) -> dict[str, Seconds]:
    """Seconds of each row's steps, and of the SFT term's backward pass."""
    batches: list[StepBatch] = []
    mixing = runs["mixing"]
    update = mixing.method.update

    def keep(trainer: Any, batch: StepBatch, step: int) -> None:
        batches.append(batch)
        update(trainer, batch, step)

    mixing.method.update = keep  # type: ignore[method-assign]
    seconds = {label: Seconds() for label in (*runs, "sft", "rl")}
    for repetition in range(WARM_UP + repetitions):
        order = [*runs][repetition % len(runs) :] + [*runs][: repetition % len(runs)]
        rollouts = set()
        for label in order:
            with seconds[label].timed():
                line = runs[label].step()
            seconds[label].update.append(runs[label].stopwatch.end_step()["update"])
            rollouts.add((line["reward_mean"], line["response_length_mean"]))
        assert len(rollouts) == 1, "all rows should have had the same rollouts"
        with seconds["sft"].timed():
            mixing.trainer.gradient("demonstration", batches[-1])
        with seconds["rl"].timed():
            mixing.trainer.gradient("rl", batches[-1])
    for row in seconds.values():
        del row.whole[:WARM_UP], row.cpu[:WARM_UP], row.update[:WARM_UP]
    return seconds


def spread(values: Sequence[float]) -> str:
    """Median with the quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def print_times(seconds: dict[str, Seconds], *, threads: int) -> None:
    rl, sft = seconds["rl_zero"], seconds["sft"]
    print(f"Medians (quartiles) of {len(rl.whole)} interleaved repetitions, {threads} thread(s).\n")
    print("| | step, s | of it update, s | over RL step + SFT gradient | in CPU seconds |")
    print("|---|---|---|---|---|")
    for label, name in NAMES.items():
        row = seconds[label]
        update = spread(row.update) if row.update else "-"
        wall, cpu = ratios(row.whole, rl.whole, sft.whole), ratios(row.cpu, rl.cpu, sft.cpu)
        print(f"| {name} | {spread(row.whole)} | {update} | {spread(wall)} | {spread(cpu)} |")
    stated = over_parts(seconds)
    verdict = "holds" if stated <= BOUND else "does NOT hold"
    print(
        f"\nBRIDGE over RL step + SFT gradient + RL gradient, CPU seconds: {stated:.3f}; ", end=""
    )
    print(f"the bound {BOUND} {verdict}.\n")


def over_parts(seconds: dict[str, Seconds]) -> float:
    """CPU seconds of a BRIDGE step over those of an RL step and the two gradients."""
    parts = [s + r for s, r in zip(seconds["sft"].cpu, seconds["rl"].cpu, strict=True)]
    return statistics.median(ratios(seconds["bridge"].cpu, seconds["rl_zero"].cpu, parts))


def ratios(row: Sequence[float], rl: Sequence[float], sft: Sequence[float]) -> list[float]:
    """A row over RL step plus SFT backward, repetition by repetition."""
    return [x / (r + s) for x, r, s in zip(row, rl, sft, strict=True)]


# -- memory -------------------------------------------------------------------------------------


def n_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    return n_bytes(v for entry in optimizer.state.values() for v in entry.values())


def memory_of(run: Run) -> dict[str, int]:
    """Bytes of each part after two steps, and the most that lived inside a step only."""
    policy, trainer = run.policy, run.trainer
    kept = SHADOW in policy.groups
    made: list[weakref.ref[torch.optim.Optimizer]] = []
    new_optimizer, gradient = trainer._new_optimizer, trainer.gradient
    inside = 0

    def noted(*arguments: Any) -> Any:
        optimizer = new_optimizer(*arguments)
        made.append(weakref.ref(optimizer))
        return optimizer

    def watched(*arguments: Any, **settings: Any) -> Any:
        nonlocal inside
        held = {id(o) for o in trainer.optimizers.values()}
        passing = [o for ref in made if (o := ref()) is not None and id(o) not in held]
        copy = [] if kept else policy.parameters.get(SHADOW, [])
        inside = max(inside, n_bytes(copy) + sum(map(state_bytes, passing)))
        return gradient(*arguments, **settings)

    trainer._new_optimizer = noted  # type: ignore[assignment]
    trainer.gradient = watched  # type: ignore[method-assign]
    for _ in range(2):
        run.step()
    optimizers = {name.split("/")[0]: state_bytes(o) for name, o in trainer.optimizers.items()}
    assert trainer.reference is not None
    return {
        "base theta": n_bytes(policy.parameters[BASE]),
        "AdamW state of theta": optimizers[BASE],
        "adapter w": n_bytes(policy.parameters[ADAPTER]),
        "AdamW state of w": optimizers[ADAPTER],
        "shadow theta-hat": n_bytes(policy.parameters.get(SHADOW, [])),
        "AdamW state of theta-hat": optimizers.get(SHADOW, 0),
        "merged weights, sampled and differentiated": n_bytes(policy.sampler.model.parameters()),
        "reference of the KL term (where used)": n_bytes(
            weight for _, weight in trainer.reference.state()
        ),
        "only inside a step: copy of theta and its AdamW state": inside,
    }


def megabytes(sizes: Iterable[int]) -> str:
    return " | ".join(f"{size / 1e6:.2f}" for size in sizes)


def print_memory(columns: list[dict[str, int]]) -> None:
    print("| part, MB | persistent | lookahead |\n|---|---|---|")
    *parts, inside = columns[0]
    for part in parts:
        print(f"| {part} | {megabytes(column[part] for column in columns)} |")
    totals = [sum(column[part] for part in parts) for column in columns]
    print(f"| **held for the whole run** | {megabytes(totals)} |")
    print(f"| {inside} | {megabytes(column[inside] for column in columns)} |")


if __name__ == "__main__":
    main()
