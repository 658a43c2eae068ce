"""The command ``bridge``: one subcommand per job of the workflow, and what people ask between runs.

    bridge init                a project folder here, outside of the repository
    bridge run                 every job of a suite that is not done: what ``make reproduce`` runs
    bridge status              what is done, running, failed and why
    bridge summary             the main table, and where the report lies
    bridge compare A B         two methods, runs or suites: accuracy, cost, configuration
    bridge claims A B ...      verdicts on claims over several suites
    bridge compare --samples A.jsonl B.jsonl     two files of lm_eval --log_samples
    bridge doctor              versions, machine, disk, and the plan of the suite
    bridge plan                the suite on several GPUs as a calendar, with costs of claims
    bridge init mine --model FOLDER --train a.jsonl --test b.jsonl     a suite of one's own
    bridge publish FOLDER      a folder of a suite that others check by bridge verify FOLDER
    bridge train --model tiny-qwen --dataset chains --method sft --seed 0     one job by hand

Run it where ``config.yaml`` is: in the repository, or in a folder of ``bridge init``. A problem
that has a remedy is one sentence on stderr and exit code 2; anything else is a defect, keeps its
traceback and exits with 1.
A job that was asked to stop (SIGTERM, Ctrl-C) ends with exit code 75: the same command goes on.

Nothing is imported before a command needs it, so that ``--help`` and ``status`` answer at once, and
so that the number of threads is set before torch reads it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bridge.jobs import arguments as check
from bridge.jobs.calendar.command import add_plan
from bridge.jobs.places import figures_folder, shown_folder, suite_name, suite_title, tidy_folder
from bridge.jobs.sharing import add_sharing
from bridge.machine.interruption import EXIT_INTERRUPTED, Interrupted

WATCH_EVERY_S = 5.0


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command."""
    # To find plugins, pydantic would read the metadata of every installed package.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    args = parser().parse_args(arguments)
    try:
        args.run(args)
    except Interrupted as stop:
        print(f"bridge: {stop}", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of a pipe (``| head``) left; Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except ModuleNotFoundError as error:
        from bridge.jobs.missing import missing_library

        if (sentence := missing_library(error)) is None:
            raise
        print(f"bridge: {sentence}.", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        from bridge.jobs.run_jobs import has_remedy, one_line

        if not has_remedy(error):
            raise
        print(f"bridge: {one_line(error)}", file=sys.stderr)
        sys.exit(2)


# -- jobs that make or measure a model -------------------------------------------------------------


def prepare(args: argparse.Namespace) -> None:
    """Make one of the suite's tiny base models."""
    from bridge.jobs import run_jobs

    run_jobs.prepare(args)


def train(args: argparse.Namespace) -> None:
    """Train one run."""
    from bridge.jobs import run_jobs

    run_jobs.train(args)


def evaluate(args: argparse.Namespace) -> None:
    """Evaluate one trained run."""
    from bridge.jobs import run_jobs

    run_jobs.evaluate(args)


def run_grid(args: argparse.Namespace) -> None:
    """Run every job of a suite and print its main table."""
    from bridge.jobs.project import run_suite

    suite = suite_name(args)
    further = ["--dry-run", *args.snakemake] if args.dry_run else args.snakemake
    verbose = args.verbose or args.dry_run
    code = run_suite(suite, args.cores, further, verbose=verbose)
    if code:
        sys.exit(code)
    if not args.dry_run and Path(tidy_folder(args), "runs.parquet").is_file():
        summary(args)


# -- jobs that show --------------------------------------------------------------------------------


def collect(args: argparse.Namespace) -> None:
    """Gather the run folders of a suite."""
    from bridge.collect.collecting import collect_suite
    from bridge.jobs.run_jobs import expect, load

    plan = load(args)
    expect(plan.hash, args.expect)
    folder = shown_folder(args) / "tidy"
    collect_suite(plan, results=args.results, folder=folder, partial=args.partial)
    print(f"{len(plan.runs)} runs in {folder}")


def freeze(args: argparse.Namespace) -> None:
    """Write what the trials of a suite chose."""
    from bridge.analysis.numbers.frames import load_tidy
    from bridge.analysis.tables.trials import make_choice
    from bridge.jobs.run_jobs import expect, load
    from bridge.plan.choices import CHOICE
    from bridge.store.records import write_json

    plan = load(args)
    expect(plan.hash, args.expect)
    path = shown_folder(args) / "tidy" / CHOICE
    write_json(path, make_choice(load_tidy(path.parent), plan))
    print(path)


def cache(args: argparse.Namespace) -> None:
    """Copy the tidy tables of a finished suite to where they are committed."""
    from bridge.collect.caching import cache_suite
    from bridge.store.records import cached_folder

    suite = suite_name(args)
    size = cache_suite(args.results, suite, with_answers=not args.without_answers)
    print(f"{size / 1e6:.2f} MB in {cached_folder(args.results, suite)}")


def tables(args: argparse.Namespace) -> None:
    """Write the tables."""
    from bridge.analysis.report.building import build_tables

    folder = shown_folder(args) / "tables"
    build_tables(tidy_folder(args), folder, expected=args.expected or ())


def figures(args: argparse.Namespace) -> None:
    """Draw the figures."""
    from bridge.analysis.figures.drawing import build_figures

    build_figures(tidy_folder(args), figures_folder(args), args.processes)


def report(args: argparse.Namespace) -> None:
    """Write the HTML report."""
    from bridge.analysis.report.page import build_report

    folder = shown_folder(args)
    parts = (tidy_folder(args), folder / "tables", figures_folder(args))
    build_report(*parts, folder / "report.html", title=suite_title(args))


# -- questions -------------------------------------------------------------------------------------


def summary(args: argparse.Namespace) -> None:
    """Print the main table and where the report lies."""
    from bridge.analysis.tables.accuracy import main_table_text

    width = min(120, shutil.get_terminal_size((100, 24)).columns)
    print(main_table_text(tidy_folder(args), width))
    path = shown_folder(args) / "report.html"
    print(f"\nReport: {path}" if path.is_file() else "\nNo report yet.")


def status(args: argparse.Namespace) -> None:
    """Print the grid of the suite, once or until every run has ended."""
    from bridge.collect.status import grid_text, run_state
    from bridge.jobs.run_jobs import load
    from bridge.store.records import RESULTS

    plan, terminal = load(args), sys.stdout.isatty()
    while True:
        colour = terminal and "NO_COLOR" not in os.environ
        text = grid_text(plan, results=args.results, colour=colour)
        # From the upper left corner, over what was there.
        print(f"\x1b[H\x1b[2J{text}" if terminal and args.watch else text, flush=True)
        ended = all(run_state(spec, args.results).word in RESULTS for spec in plan.runs)
        if not args.watch or ended:
            return
        time.sleep(WATCH_EVERY_S)


def compare(args: argparse.Namespace) -> None:
    """Print what differs between two runs, methods or suites, or two files of lm-eval's."""
    if args.samples:
        from bridge.analysis.report.compare_samples import run_compare_samples

        print(run_compare_samples(*args.samples, as_json=args.json))
        return
    if args.right is None:
        from bridge.store.schema import ConfigError

        raise ConfigError("compare: name two methods, runs or suites, or two files by --samples.")
    from bridge.analysis.report.compare import run_compare

    print(
        run_compare(
            args.results, args.left, args.right, suite_name(args), json=args.json, tidy=args.tidy
        )
    )


def claims(args: argparse.Namespace) -> None:
    """Print the verdicts on the claims of papers over one or several suites."""
    from bridge.analysis.claims.table import verdicts_text
    from bridge.analysis.report.building import CLAIMS
    from bridge.store.records import cached_folder, suite_folder

    names = args.suites or [suite_name(args)]
    folders = [suite_folder(args.results, name) / "tidy" for name in names]
    known = zip(folders, (cached_folder(args.results, name) for name in names), strict=True)
    width = min(120, shutil.get_terminal_size((100, 24)).columns)
    print(verdicts_text([own if own.is_dir() else cached for own, cached in known], CLAIMS, width))


def doctor(args: argparse.Namespace) -> None:
    """Print what a bug report needs, and what the suite's runs will need."""
    from bridge.collect.status import doctor_text
    from bridge.jobs.needs.devices import CPU, device
    from bridge.jobs.needs.report import prediction_text, refusals
    from bridge.jobs.run_jobs import load
    from bridge.plan.config import config_path, load_user_config

    plan = load(args)
    print(doctor_text(plan, results=args.results), flush=True)
    name = args.device or load_user_config(config_path()).device
    chosen = device(name or CPU)
    print(f"\n{prediction_text(plan, chosen)}", flush=True)
    refused = [] if name is None else list(refusals(plan, chosen))
    for sentence in refused:
        print(f"bridge: {sentence}", file=sys.stderr)
    if refused:
        sys.exit(2)


def track(args: argparse.Namespace) -> None:
    """Send what a suite's runs log to an experiment tracker."""
    from bridge.jobs.tracking import track
    from bridge.plan.config import config_path, load_user_config
    from bridge.store.schema import ConfigError

    name = args.to or load_user_config(config_path()).tracking
    if name is None:
        raise ConfigError("track: name a tracker by --to, or in config.yaml as tracking.")
    n_sent = track(suite_name(args), args.results, name, follow=args.follow)
    print(f"{n_sent} steps sent to {name}")


def tasks(args: argparse.Namespace) -> None:
    """Write our benchmarks as tasks for lm-eval's own command line."""
    from bridge.evaluation.tasks import write_tasks

    print(f"{write_tasks(args.folder)} tasks in {args.folder}")


def test_method(args: argparse.Namespace) -> None:
    """Try on one method what holds for every method."""
    from bridge.jobs.contract import check_method

    if not check_method(args.method, args.options or {}):
        sys.exit(1)


# -- a suite of one's own --------------------------------------------------------------------------


def init(args: argparse.Namespace) -> None:
    """Make a project folder or, in one, write a suite for a model and data files."""
    from bridge.plan.config import config_path
    from bridge.store.schema import ConfigError

    if args.name is None and not (args.model or args.train or args.test or args.reward):
        from bridge.jobs.project import begin_project

        print(begin_project(Path()))
        return
    if not (args.name and args.model and args.train and args.test):
        raise ConfigError(
            "init: a suite needs a NAME, --model, --train and --test; without any of them, "
            "bridge init makes a project folder."
        )
    from bridge.jobs.beginning import begin_suite

    config_path()
    path = Path("suites", f"{args.name}.yaml")
    print(
        begin_suite(path, args.model, args.train, args.test, reward=args.reward, tokens=args.tokens)
    )


def pin(args: argparse.Namespace) -> None:
    """Write the hashes of a suite's data files into it."""
    from bridge.jobs.pinning import pin_suite
    from bridge.plan.config import suite_file

    path = suite_file(suite_name(args), Path())
    print("\n".join(pin_suite(path)))


# -- the parser -----------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """Return the parser of all subcommands."""
    top = check.Parser(
        prog="bridge", description="Train, evaluate and compare methods; see also the Snakefile."
    )
    top.add_argument("--version", action=check.Version, nargs=0, help="print the version")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], None], text: str) -> Any:
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(run=run)
        sub.add_argument(
            "--suite", type=check.suite, help="a file in suites/ (default: the one in config.yaml)"
        )
        sub.add_argument("--results", type=check.folder, default="results", metavar="FOLDER")
        sub.add_argument(
            "--overrides", type=check.json_mapping, metavar="JSON", help="instead of config.yaml's"
        )
        return sub

    for name, run, text in (
        ("prepare", prepare, "make a base model: a tiny one, or one of a package"),
        ("train", train, "train one run"),
        ("evaluate", evaluate, "evaluate one trained run"),
    ):
        sub = add(name, run, text)
        sub.add_argument("--model", type=check.name, required=True)
        if name != "prepare":
            sub.add_argument("--dataset", type=check.name, required=True)
            sub.add_argument(
                "--method", type=check.name, required=True, help="row name of the suite"
            )
            sub.add_argument("--seed", type=check.seed, required=True)
        sub.add_argument("--threads", type=check.threads, default=1)
        sub.add_argument(
            "--expect", type=check.name, metavar="HASH", help="refuse any other configuration"
        )
    for name, run, text in (
        ("collect", collect, "gather run folders into tidy tables"),
        ("freeze", freeze, "write which trials a suite of tuning trials chose"),
        ("tables", tables, "write the tables"),
        ("figures", figures, "draw the figures"),
        ("report", report, "write the HTML report"),
        ("summary", summary, "print the main table"),
    ):
        sub = add(name, run, text)
        sub.add_argument(
            "--partial",
            action="store_true",
            help="of an unfinished grid, in <results>/<suite>/partial; missing runs are marked",
        )
        if name in ("collect", "freeze"):
            sub.add_argument(
                "--expect", type=check.name, metavar="HASH", help="refuse any other configuration"
            )
        else:
            sub.add_argument(
                "--tidy", type=check.folder, metavar="FOLDER", help="read tidy tables here"
            )
        if name == "tables":
            sub.add_argument("--expected", nargs="*", metavar="TABLE", help="write these anyway")
        if name == "figures":
            sub.add_argument(
                "--processes", type=check.threads, default=1, help="processes that draw figures"
            )
    text = "run every job of a suite that is not done yet, then print the main table"
    sub = commands.add_parser("run", help=text, description=text, allow_abbrev=False)
    sub.set_defaults(run=run_grid, results=Path("results"), partial=False, tidy=None)
    sub.add_argument(
        "--suite", type=check.suite, help="a file in suites/ (default: the one in config.yaml)"
    )
    sub.add_argument("--cores", default="all", help="cores that may be used (default: all)")
    sub.add_argument("-n", "--dry-run", action="store_true", help="only print the plan")
    sub.add_argument("--verbose", action="store_true", help="show all that Snakemake says")
    sub.add_argument("snakemake", nargs="*", help="after --: more arguments for Snakemake")
    sub = add("cache", cache, "copy the tidy tables of a finished suite to results/cached")
    sub.add_argument("--without-answers", action="store_true", help="leave the largest table out")
    sub = add("status", status, "print what is done, running, failed and waiting")
    sub.add_argument("--watch", action="store_true", help="again and again, until all has ended")
    sub = add(
        "compare", compare, "compare two methods, runs (model/dataset/method/seed0) or suites"
    )
    sub.add_argument("left", type=check.side, nargs="?", metavar="A")
    sub.add_argument("right", type=check.side, nargs="?", metavar="B")
    sub.add_argument(
        "--samples",
        type=Path,
        nargs=2,
        metavar=("A.jsonl", "B.jsonl"),
        help="instead: two files that lm_eval wrote with --log_samples",
    )
    sub.add_argument("--json", action="store_true", help="every number, as JSON")
    sub.add_argument(
        "--tidy", type=check.folder, metavar="FOLDER", help="read the suite's tables here"
    )
    sub = add("claims", claims, "print the verdicts on papers' claims over one or several suites")
    sub.add_argument("suites", nargs="*", type=check.suite, metavar="SUITE")
    sub = add("track", track, "send what runs log to an experiment tracker")
    sub.add_argument("--to", choices=check.TRACKERS, help="default: the one in config.yaml")
    sub.add_argument("--follow", action="store_true", help="until what started this has ended")
    text = "write our benchmarks as tasks for lm-eval's own command line"
    sub = commands.add_parser("tasks", help=text, description=text, allow_abbrev=False)
    sub.set_defaults(run=tasks)
    sub.add_argument("folder", type=check.folder, help="for lm_eval --include_path")
    text = "try on a method what holds for every method, in tiny runs"
    sub = commands.add_parser("test-method", help=text, description=text, allow_abbrev=False)
    sub.set_defaults(run=test_method)
    sub.add_argument("method", metavar="METHOD", help="a name, a module, or its file")
    sub.add_argument("--options", type=check.json_mapping, metavar="JSON", help="of the method")
    add("pin", pin, "write the hashes of a suite's own data files into the suite")
    add_sharing(add, commands)
    add_plan(add)
    text = "make a project folder here or, with a NAME, write a suite for your model and data"
    sub = commands.add_parser("init", help=text, description=text, allow_abbrev=False)
    sub.set_defaults(run=init)
    sub.add_argument("name", type=check.suite, nargs="?", help="of the suite, and of its data set")
    sub.add_argument("--model", metavar="MODEL", help="a checkpoint folder, or owner/name@commit")
    sub.add_argument("--train", type=Path, metavar="FILE", help=".jsonl or .csv")
    sub.add_argument("--test", type=Path, nargs="+", metavar="FILE")
    sub.add_argument("--reward", metavar="MODULE:FUNCTION", help="judges answers instead of ours")
    sub.add_argument("--tokens", type=check.tokens, default=256, help="longest answer")
    sub = add("doctor", doctor, "print versions, machine, disk, predicted memory and hours")
    sub.add_argument(
        "--device",
        type=check.name,
        metavar="NAME",
        help="a GPU like h100-80gb, or cpu (the default); a run that cannot fit is refused",
    )
    return top


if __name__ == "__main__":
    main()
