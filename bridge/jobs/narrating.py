"""What a person sees while a grid is worked on: a line per stage, and the time left for all of it.

Snakemake's own words are read, not shown; its log keeps them. How far the jobs under way are, their
heartbeats say. The time left is the work that is left over the work done per second so far,
in the seconds that ``bridge/jobs/needs/hours.py`` predicts for a processor: their sum is off where
the machine is another, their proportions much less.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Never

from tqdm import tqdm

from bridge.collect.status import clock, heartbeats
from bridge.jobs.needs.devices import CPU, device
from bridge.jobs.needs.prediction import predict
from bridge.jobs.needs.report import kinds_of_runs
from bridge.plan.grid import Plan
from bridge.store.records import RESULTS, read_json
from bridge.store.settings import MadeModel, TinyModel

STAGES: Final = {
    "base models": ("prepare",),
    "training": ("train",),
    "evaluation": ("evaluate",),
    "tables and report": ("collect", "tables", "draw", "report"),
}
_OUTPUT_S: Final = 5.0
"""Of one job of the last stage."""
_PACKAGE_S: Final = 120.0
"""To fetch and decode the model of a package."""
_ROW_S: Final = 0.01
"""Of one row of a tiny model's pre-training, in the units of ``hours.py``."""
_TOLD_FROM: Final = 0.03
"""Share of the work after which a time left is given."""
_LINE_EVERY_S: Final = 20.0
_KEPT_LINES: Final = 40
_COUNT = re.compile(r"(\w+) +(\d+)")
_FINISHED = re.compile(r"Finished jobid: \d+ \(Rule: (\w+)\)")
_FAILED = re.compile(r"Error in (?:group job|rule) ")


def work_of(plan: Plan, results: Path) -> dict[str, float]:
    """Predicted seconds of one job of each rule, as a mean over what is not done yet."""
    trained, evaluated = [], []
    cpu = device(CPU)
    for specs in kinds_of_runs(plan).values():
        hours = predict(specs[0], cpu).hours
        assert hours is not None
        for spec in specs:
            folder = spec.folder(results)
            done = folder.done.is_file() and read_json(folder.done).get("status") in RESULTS
            trained += [] if done else [3600 * (hours["total"] - hours["evaluate"])]
            evaluated += [] if folder.scores.is_file() else [3600 * hours["evaluate"]]
    made = [_making_s(model) for model in plan.made_models.values()]
    work = {"prepare": _mean(made), "train": _mean(trained), "evaluate": _mean(evaluated)}
    return work | dict.fromkeys(STAGES["tables and report"], _OUTPUT_S)


def _making_s(model: MadeModel) -> float:
    if isinstance(model, TinyModel):
        return _ROW_S * model.batch_size * (model.skill_steps + model.habit_steps)
    return _PACKAGE_S


def _mean(seconds: list[float]) -> float:
    return sum(seconds) / len(seconds) if seconds else 1.0


@dataclass
class Narrator:
    """Turns what Snakemake writes and what jobs record into a few lines."""

    suite: Path
    """Folder of the suite's results."""
    work: Mapping[str, float]
    """Predicted seconds of a job, by rule."""
    planned: Counter[str] = field(default_factory=Counter)
    finished: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    kept: list[str] = field(default_factory=list)
    """The last lines, for when it ends badly."""
    _rest: str = ""
    _in_table: bool = False
    _begun_s: float | None = None

    def hear(self, text: str, now: float) -> Iterable[str]:
        """Take in what Snakemake wrote; return the lines that a person has to see at once."""
        *lines, self._rest = (self._rest + text).split("\n")
        for raw in lines:
            line = raw.rstrip()
            self.kept = [*self.kept[1 - _KEPT_LINES :], line]
            if line.startswith("bridge: "):
                yield line
            elif line.startswith("Nothing to be done"):
                yield "bridge: everything is done already."
            elif line.startswith("Job stats:"):
                self._in_table, self._begun_s = not self.planned, now
            elif self._in_table and (row := _COUNT.fullmatch(line)):
                self.planned[row[1]] = int(row[2])
            elif self._in_table and not line:
                self._in_table = False
            elif found := _FINISHED.match(line):
                self.finished[found[1]] += 1
            elif _FAILED.match(line):
                self.failed += 1

    def stages(self) -> dict[str, str]:
        """How far each stage of the plan is, in words."""
        beats = {name: f"{name} step {b['step']}/{b['n_steps']}" for name, b in self._beats()}
        texts = {}
        for stage, rules in STAGES.items():
            total = sum(self.planned[rule] for rule in rules)
            done = sum(self.finished[rule] for rule in rules)
            doing = [text for name, text in beats.items() if _stage_of(name) == stage]
            if total:
                texts[stage] = f"{done} of {total}  {', '.join(doing[:2])}".rstrip()
        return texts

    def left_s(self, now: float) -> float | None:
        """Seconds left for the whole plan; None before enough of it is done to tell."""
        done = sum(n * self.work.get(rule, 0.0) for rule, n in self.finished.items())
        for name, beat in self._beats():
            rule = STAGES[_stage_of(name)][0]
            done += beat["step"] / max(1, beat["n_steps"]) * self.work[rule]
        total = sum(n * self.work.get(rule, 0.0) for rule, n in self.planned.items())
        if self._begun_s is None or done <= _TOLD_FROM * total:
            return None
        return max(0.0, total - done) * (now - self._begun_s) / done

    def total_line(self, now: float) -> str:
        """Time left, and what failed so far."""
        left = self.left_s(now)
        text = "time left: not known yet" if left is None else f"about {clock(left)} left"
        return f"{text}; {self.failed} failed" if self.failed else text

    def last_words(self) -> list[str]:
        """Why Snakemake ended as it did: what failed, or its last lines."""
        marks = [n for n, line in enumerate(self.kept) if line.startswith("failed: ")]
        words = self.kept[marks[0] :] if marks else self.kept
        return [line for line in words if not line.startswith("Elapsed time")]

    def _beats(self) -> list[tuple[str, dict[str, float]]]:
        return list(heartbeats(self.suite))


def _stage_of(name: str) -> str:
    """Stage of a heartbeat: runs have folders in their names, base models have not."""
    return "training" if "/" in name else "base models"


class Lines:
    """For a log: a line when a stage gets further, seldom."""

    def __init__(self) -> None:
        self._last_s, self._shown = -_LINE_EVERY_S, ""

    def show(self, narrator: Narrator, now: float) -> None:
        """Print where the first unfinished stage is, unless that was said a moment ago."""
        open_stages = [f"{stage} {text}" for stage, text in narrator.stages().items()]
        text = "; ".join(open_stages)
        if now - self._last_s < _LINE_EVERY_S or not text or text == self._shown:
            return
        self._last_s, self._shown = now, text
        print(f"{text}; {narrator.total_line(now)}", file=sys.stderr, flush=True)

    def close(self, narrator: Narrator, now: float) -> None:
        """The last state, whenever the one before was printed."""
        self._last_s = -_LINE_EVERY_S
        self.show(narrator, now)


class Bars:
    """For a terminal: one line per stage, written over in place."""

    def __init__(self) -> None:
        self._bars: dict[str, tqdm[Never]] = {}

    def show(self, narrator: Narrator, now: float) -> None:
        """Write all lines anew."""
        texts = {f"  {stage:<18}": text for stage, text in narrator.stages().items()}
        if not texts:
            return
        for head, text in {**texts, "": narrator.total_line(now)}.items():
            if head not in self._bars:
                place = len(self._bars)
                self._bars[head] = tqdm(total=0, position=place, bar_format="{desc}", leave=True)
            width = os.get_terminal_size(sys.stderr.fileno()).columns - 1
            self._bars[head].set_description_str(f"{head}{text}"[:width])

    def close(self, narrator: Narrator, now: float) -> None:
        """Leave the last state on the screen."""
        self.show(narrator, now)
        for bar in self._bars.values():
            bar.close()
