"""The jobs of the coupling study with real generation; the workflow runs them between trainings.

    make coupling       all of it, by studies/coupling/Snakefile

1. ``check`` refuses what the suite promises and does not keep, and writes J(D) (``expert.csv``),
2. the workflow trains every run that is a first phase,
3. ``predict`` writes ``predictions.csv`` from those policies, before any second phase starts,
4. the workflow trains the runs of two phases,
5. ``observe`` writes the changes of one seed, ``compare`` joins them with the predictions:
   ``changes.csv`` (per run), ``signs.csv`` (per cell over seeds), ``sizes.csv`` (slope and R^2) and
   ``courses.csv``; ``draw`` makes the figures.

Protocol and readings: ``docs/studies/coupling.md``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bridge.jobs import arguments
from bridge.jobs.run_jobs import has_remedy, load, one_line, set_threads
from bridge.store.records import suite_folder
from studies.coupling.arms import arms

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from studies.coupling.study import Study


def check(args: argparse.Namespace) -> None:
    """Refuse what would make the comparison meaningless; print and write J(D)."""
    from studies.coupling import predicting as coupling_predicting

    with _study(args) as study:
        paid = coupling_predicting.check(study, arms(study.plan))
        for row in paid.itertuples():
            print(f"J(D) of {row.model}/{row.dataset} ({row.target}): {row.expert_reward:.4f}")
        _write(paid, study.folder / "expert.csv")


def predict(args: argparse.Namespace) -> None:
    """Write the predictions."""
    from studies.coupling import predicting as coupling_predicting

    with _study(args) as study:
        _write(
            coupling_predicting.predict(study, arms(study.plan)), study.folder / "predictions.csv"
        )


def observe(args: argparse.Namespace) -> None:
    """Write the observed changes of one seed."""
    import pandas as pd

    from studies.coupling.observing import observe

    with _study(args) as study:
        rows = [observe(study, arm) for arm in arms(study.plan) if arm.whole.seed == args.seed]
        _write(pd.DataFrame(rows), study.folder / "observed" / f"seed{args.seed}.csv")


def compare(args: argparse.Namespace) -> None:
    """Join predictions and observations into the study's tables; print signs and sizes."""
    import pandas as pd

    from studies.coupling.arms import check_predictions
    from studies.coupling.tables import courses, sign_table, size_table, with_arms

    plan = load(args)
    found = arms(plan)
    folder = suite_folder(args.results, plan.name) / "coupling"
    predictions = pd.read_csv(folder / "predictions.csv")
    hashes = predictions[["run_hash", "first_hash"]].itertuples(index=False, name=None)
    check_predictions(found, hashes)
    observed = [
        pd.read_csv(folder / "observed" / f"seed{seed}.csv")
        for seed in sorted({arm.whole.seed for arm in found})
    ]
    keys = ["order", "model", "target", "penalty", "beta", "label", "dataset", "seed"]
    changes = predictions.merge(pd.concat(observed), on=keys, how="right", validate="one_to_one")
    changes = with_arms(changes, found)
    signs, sizes = sign_table(changes), size_table(changes)
    for name, frame in (
        ("changes", changes),
        ("signs", signs),
        ("sizes", sizes),
        ("courses", courses(args.results, found)),
    ):
        _write(frame, folder / f"{name}.csv")
    for frame in (signs, sizes):
        print(frame.to_string(index=False, float_format="{:.3f}".format))


def draw(args: argparse.Namespace) -> None:
    """Draw the figures from the tables alone."""
    from studies.coupling.figures import draw_generation

    draw_generation(args.tables, args.figures)


@contextmanager
def _study(args: argparse.Namespace) -> Iterator[Study]:
    """The suite with a grader; threads are set before anything numerical is imported."""
    set_threads(args.threads)
    from bridge.grading.pool import GraderPool
    from studies.coupling.study import Study

    plan = load(args)
    with GraderPool() as grader:
        yield Study(plan, args.results, grader)


def _write(frame: pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    frame.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
    temporary.rename(path)


def parser() -> argparse.ArgumentParser:
    """Return the parser of all jobs."""
    top = arguments.Parser(description="The coupling study with real generation.")
    jobs = top.add_subparsers(title="jobs", required=True, metavar="JOB")

    def add(run: Callable[[argparse.Namespace], None]) -> Any:
        sub = jobs.add_parser(run.__name__, help=run.__doc__, description=run.__doc__)
        sub.set_defaults(run=run)
        return sub

    for job in (check, predict, observe, compare):
        sub = add(job)
        sub.add_argument("--suite", type=arguments.suite, default="coupling")
        sub.add_argument("--results", type=arguments.folder, default="results", metavar="FOLDER")
        sub.add_argument("--overrides", type=arguments.json_mapping, metavar="JSON")
        sub.add_argument("--threads", type=arguments.threads, default=1)
        if job is observe:
            sub.add_argument("--seed", type=arguments.seed, required=True)
    sub = add(draw)
    sub.add_argument("--tables", type=arguments.folder, default="results/cached/coupling")
    sub.add_argument("--figures", type=arguments.folder, default="figures/coupling")
    return top


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run a job; a mistake of the user's is one sentence."""
    args = parser().parse_args(arguments)
    try:
        args.run(args)
    except Exception as error:
        if not has_remedy(error):
            raise
        print(f"coupling: {one_line(error)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
