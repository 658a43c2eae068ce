"""A folder with a two-run suite in it, its jobs as killable processes, and what it should become.

Jobs are the real ones, started through the command line's ``main`` in children of a server that
has the libraries loaded already: a kill costs the drill a moment, not the start of torch.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

from bridge.store.records import RunFolder, base_folder, run_folder, suite_folder

ROOT = Path(__file__).resolve().parents[2]
SUITE = "drill"
METHODS = ("sft", "bridge")
STEPS = 12
CHECKPOINT_EVERY = 2
SUITE_YAML = f"""
title: Fault drills
models:
  tiny:
    source: tiny
    architecture: qwen2
    families: [chains]
    hidden: 32
    layers: 1
    heads: 2
    context_tokens: 160
    skill_steps: 60
    habit_steps: 20
datasets:
  chains:
    family: chains
    options: {{train_size: 64, validation_size: 16, demonstrations: 16, questions_scale: 0.04}}
training:
  prompts_per_step: 4
  n: 4
  max_response_tokens: 24
  sft_batch_size: 4
  lr_sft: 3.0e-4
  lr_rl: 3.0e-4
  probe_every: 4
  probe_size: 8
  checkpoint_every: {CHECKPOINT_EVERY}
evaluation: {{max_response_tokens: 24, n_samples: 0, sampled_questions: 0}}
methods:
  sft: {{options: {{steps: {STEPS}}}}}
  bridge: {{options: {{steps: {STEPS}}}}}
grid:
  - {{models: [tiny], datasets: [chains], methods: [sft, bridge], seeds: [0]}}
"""
TABLES = ("main", "differences")
"""Tables without seconds in them."""
PRELOADED = (
    "torch",
    "transformers",
    "peft",
    "lm_eval.evaluator",
    "bridge.run.loop",
    "bridge.evaluation.answers",
    "bridge.evaluation.model",
    "bridge.collect.collecting",
    "bridge.analysis.report.building",
)


class DrillError(AssertionError):
    """The harness did not do what it promises."""


def check(holds: bool, what: str) -> None:
    """Stop the drill, with the reason in its row of the table, unless something holds."""
    if not holds:
        raise DrillError(what)


class Workshop:
    """One working folder; ``path`` is where the jobs run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "suites").mkdir(parents=True, exist_ok=True)
        (path / "suites" / f"{SUITE}.yaml").write_text(SUITE_YAML)
        (path / "config.yaml").write_text(f"suite: {SUITE}\n")
        published = path / "results" / "published"
        if not published.exists():
            published.parent.mkdir(exist_ok=True)
            published.symlink_to(ROOT / "results" / "published")
        (path / "claims.yaml").write_bytes((ROOT / "claims.yaml").read_bytes())

    @property
    def results(self) -> Path:
        return self.path / "results"

    @property
    def base(self) -> Path:
        return base_folder(self.results, SUITE, "tiny")

    @property
    def tables(self) -> Path:
        return suite_folder(self.results, SUITE) / "tables"

    def run(self, method: str) -> RunFolder:
        """The folder of a run."""
        return run_folder(self.results, SUITE, "tiny", "chains", method, 0)

    def checkpoints(self, method: str) -> list[str]:
        """Names of the finished checkpoints of a run."""
        return sorted(p.name for p in self.run(method).resume.glob("step*"))

    # -- jobs ---------------------------------------------------------------------------------

    def start(
        self, command: str, method: str | None = None, setup: Callable[[], None] | None = None
    ) -> BaseProcess:
        """Start a job; ``setup`` is called in its process first."""
        arguments = [command, "--suite", SUITE]
        if command == "prepare":
            arguments += ["--model", "tiny"]
        if method is not None:
            arguments += [
                "--model",
                "tiny",
                "--dataset",
                "chains",
                "--method",
                method,
                "--seed",
                "0",
            ]
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(PRELOADED))
        process = context.Process(target=_work, args=(self.path, arguments, setup))
        process.start()
        return process

    def do(
        self, command: str, method: str | None = None, setup: Callable[[], None] | None = None
    ) -> tuple[int, str]:
        """Run a job to its end; exit status and what it said."""
        process = self.start(command, method, setup)
        process.join()
        assert process.exitcode is not None
        return process.exitcode, self.said()

    def said(self) -> str:
        """What the last job wrote to stderr."""
        return (self.path / "job.log").read_text(errors="replace")

    def succeed(self, command: str, method: str | None = None) -> str:
        """Run a job that must not fail."""
        status, said = self.do(command, method)
        check(status == 0, f"{command} {method or ''} exited with {status}: {said[-300:]}")
        return said

    def refuse(self, command: str, method: str | None, words: str) -> str:
        """Run a job that must end with one sentence in our words and exit code 2; return it."""
        status, said = self.do(command, method)
        return sentence(status, said, words)

    def finish(self) -> None:
        """Whatever is still to be done of the suite."""
        for method in METHODS:
            folder = self.run(method)
            if not folder.done.exists():
                self.succeed("train", method)
            if not folder.scores.exists():
                self.succeed("evaluate", method)
        self.succeed("collect")
        self.succeed("tables")

    def snakemake(self, *arguments: str) -> subprocess.Popen[str]:
        """Start Snakemake for the tables, in a process group of its own."""
        known = {k: v for k, v in os.environ.items() if not k.startswith("SNAKEMAKE")}
        command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile")]
        command += ["--directory", str(self.path), "--cores", "1", *arguments]
        return subprocess.Popen(
            command,
            env=known | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    # -- results ------------------------------------------------------------------------------

    def outcome(self, methods: tuple[str, ...] = METHODS) -> dict[str, bytes]:
        """What no fault may change: dynamics, weights, answers, tables."""
        paths = {f"tables/{n}.{e}": self.tables / f"{n}.{e}" for n in TABLES for e in ("csv", "md")}
        for method in methods:
            folder = self.run(method)
            paths[f"{method}/dynamics"] = folder.dynamics
            paths[f"{method}/weights"] = folder.policy / "model.safetensors"
            paths[f"{method}/answers"] = folder.answers
        return {name: path.read_bytes() for name, path in paths.items()}

    def forget_runs(self) -> None:
        """Remove all but the base model."""
        for name in ("runs", "tidy", "tables", "logs"):
            shutil.rmtree(suite_folder(self.results, SUITE) / name, ignore_errors=True)


def sentence(status: int, said: str, words: str) -> str:
    """The one sentence of a refusal; a traceback or other words fail the drill."""
    found = [line for line in said.splitlines() if line.startswith("bridge: ")]
    check(status == 2, f"exit status {status} instead of 2: {said[-300:]}")
    check("Traceback" not in said, f"a traceback: {said[-300:]}")
    check(len(found) == 1 and re.search(words, found[0]) is not None, f"said: {said[-300:]}")
    return found[0].removeprefix("bridge: ")


def wait_for(holds: Callable[[], bool], process: BaseProcess | None = None) -> bool:
    """Wait until something holds; False if the process ended before."""
    while not holds():
        if process is not None and not process.is_alive():
            return False
        time.sleep(0.0005)
    return True


def kill(process: BaseProcess) -> bool:
    """SIGKILL a job; whether it was still alive."""
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Freeze a process for a while."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _work(path: Path, arguments: list[str], setup: Callable[[], None] | None) -> None:
    os.chdir(path)
    log = os.open("job.log", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if setup is not None:
        setup()
    from bridge.jobs.cli import main

    main(arguments)
