"""``bridge publish``, ``verify`` and ``push``: their options, and what they print."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from bridge.jobs import arguments as check
from bridge.jobs.places import suite_name, suite_title, tidy_folder


def publish(args: argparse.Namespace) -> None:
    """Make a folder of a suite that another person can verify."""
    from bridge.jobs.publishing import publish
    from bridge.store.records import cached_folder, suite_folder

    suite, title = suite_name(args), suite_title(args)
    tidy = cached_folder(args.results, suite) if args.cached else tidy_folder(args)
    runs = None if args.cached else suite_folder(args.results, suite)
    more = {"rows": args.policies, "partial": args.partial}
    n_files = publish(args.folder, suite, title, tidy, runs=runs, **more)
    print(f"{n_files} files in {args.folder}; check them with bridge verify {args.folder}")


def verify(args: argparse.Namespace) -> None:
    """Check a published folder."""
    from bridge.jobs.verifying import verify

    n_files = verify(args.folder)
    print(f"{args.folder}: {n_files} files are whole, and the tables are those of its tidy tables")


def push(args: argparse.Namespace) -> None:
    """Upload a published folder to the Hugging Face hub."""
    from bridge.jobs.pushing import push

    print(push(args.folder, args.repo, confirmed=args.yes))


def add_sharing(add: Callable[..., Any], commands: Any) -> None:
    """Add the three commands to the parser.

    Args:
        add: makes a command that knows ``--suite`` and ``--results``.
        commands: where the others go.
    """
    sub = add("publish", publish, "make a folder of a suite that others can verify")
    sub.add_argument("folder", type=check.folder, metavar="OUT", help="new, or empty")
    source = sub.add_mutually_exclusive_group()
    source.add_argument("--cached", action="store_true", help="from the committed tidy tables")
    source.add_argument("--partial", action="store_true", help="of an unfinished grid")
    sub.add_argument(
        "--policies",
        nargs="+",
        type=check.name,
        default=["none"],
        metavar="ROW",
        help="after OUT: rows whose checkpoints go with it; none (the default), all, or names",
    )
    sub.set_defaults(tidy=None)
    for name, run, text in (
        ("verify", verify, "check a published folder: files, hashes, tables"),
        ("push", push, "upload a published folder to the Hugging Face hub"),
    ):
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(run=run)
        sub.add_argument("folder", type=check.folder)
    sub.add_argument("--repo", type=check.repository, required=True, metavar="OWNER/NAME")
    sub.add_argument("--yes", action="store_true", help="upload; without it only say what would be")
